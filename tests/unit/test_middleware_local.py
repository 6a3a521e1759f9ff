"""``RateLimitMiddleware`` without a service: limits of the app's own, in memory."""

from __future__ import annotations

import asyncio
import importlib.util
from collections import Counter
from typing import Any

import httpx2
import pytest

from apishield import RateLimitMiddleware
from apishield.errors import MissingExtra, StoreUnavailable
from apishield.integrations.callers import Incoming
from apishield.integrations.local import LocalGuard
from tests.support.clock import ManualClock


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def client_of(app: Any, address: str = "198.51.100.7", **headers: str) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, client=(address, 1))
    return httpx2.AsyncClient(transport=transport, base_url="http://api.test", headers=headers)


def guard_of(clock: ManualClock, *limits: str, **options: Any) -> LocalGuard:
    defaults: dict[str, Any] = {"per": "ip", "store_url": "memory://", "namespace": "app", "on_error": "deny"}
    return LocalGuard(limits, **(defaults | options), clock=clock)


def incoming(ip: str | None = "198.51.100.7", api_key: str | None = None) -> Incoming:
    return Incoming("GET", "/", api_key, ip, None, None)


async def test_exactly_the_limit_is_served_then_429_with_headers_and_a_problem() -> None:
    async with client_of(RateLimitMiddleware(hello, limit="100/hour", per="ip", store="memory://")) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(150)))
    assert Counter(answer.status_code for answer in answers) == {200: 100, 429: 50}
    first, last = answers[0], answers[-1]
    assert first.headers["RateLimit-Policy"] == '"100/hour";q=100;w=3600'
    assert first.headers["RateLimit"] == '"100/hour";r=99;t=3600'
    assert first.headers["X-RateLimit-Remaining"] == "99"
    assert "Retry-After" not in first.headers
    assert 3590 <= int(last.headers["Retry-After"]) <= 3600
    assert last.json()["code"] == "rate_limited"
    assert "X-APIShield-Decision" not in last.headers  # there is no receipt to look up
    assert "decision_id" not in last.json()


async def test_each_address_has_a_counter_of_its_own_and_an_ipv6_subscriber_one(clock: ManualClock) -> None:
    guard = guard_of(clock, "1/minute")
    asked = ["198.51.100.7", "198.51.100.8", "198.51.100.7", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
    allowed = [(await guard.check(incoming(ip), None, 1)).allowed for ip in asked]
    assert allowed == [True, True, False, True, False, True]


async def test_callers_of_whom_no_address_is_known_share_one_counter(clock: ManualClock) -> None:
    guard = guard_of(clock, "1/minute")
    assert [(await guard.check(incoming(None), None, 1)).allowed for _ in range(2)] == [True, False]


async def test_per_key_counts_by_key_and_by_address_where_there_is_none(clock: ManualClock) -> None:
    guard = guard_of(clock, "1/minute", per="key")
    asked = [incoming(api_key="a"), incoming("192.0.2.1", "a"), incoming(api_key="b"), incoming(), incoming()]
    assert [(await guard.check(each, None, 1)).allowed for each in asked] == [True, False, True, True, False]


async def test_a_function_says_what_is_counted_by_and_none_is_not_counted() -> None:
    def by_user(scope: Any) -> str | None:
        return dict(scope["headers"]).get(b"x-user", b"").decode() or None

    app = RateLimitMiddleware(hello, limit="1/hour", per=by_user)
    async with client_of(app) as client:
        users = ["ann", "bob", "ann", "", ""]
        answers = [await client.get("/", headers={"X-User": user}) for user in users]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200, 200]


async def test_several_limits_admit_together_or_not_at_all(clock: ManualClock) -> None:
    guard = guard_of(clock, "3/second", "4/minute")
    admitted = [(await guard.check(incoming(), None, 1)).allowed for _ in range(5)]
    clock.advance(1)
    admitted += [(await guard.check(incoming(), None, 1)).allowed for _ in range(2)]
    assert admitted == [True, True, True, False, False, True, False]  # refusals charged the minute nothing


async def test_a_refusal_ends_when_retry_after_says(clock: ManualClock) -> None:
    guard = guard_of(clock, "2/minute")
    for _ in range(2):
        await guard.check(incoming(), None, 1)
    refused = await guard.check(incoming(), None, 1)
    assert refused.retry_after is not None
    clock.advance(refused.retry_after - 0.001)
    assert not (await guard.check(incoming(), None, 1)).allowed
    clock.advance(0.001)
    assert (await guard.check(incoming(), None, 1)).allowed


async def test_a_cost_is_charged_whole_and_one_that_never_fits_has_no_retry_after(clock: ManualClock) -> None:
    guard = guard_of(clock, "10/minute")
    assert (await guard.check(incoming(), None, 7)).limits[0].remaining == 3
    assert (await guard.check(incoming(), None, 0)).limits[0].remaining == 3
    never = await guard.check(incoming(), None, 11)
    assert (never.allowed, never.retry_after, "Retry-After" in never.headers) == (False, None, False)


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503)])
async def test_a_store_that_fails_is_handled_by_on_error(on_error: Any, status: int) -> None:
    class Gone:
        def decide(self, *arguments: Any) -> Any:
            raise StoreUnavailable("gone")

    app = RateLimitMiddleware(hello, limit="1/hour", on_error=on_error)
    app.protection.guard._memory = Gone()  # type: ignore[attr-defined]
    async with client_of(app) as client:
        answers = [await client.get("/") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {status}
    assert {answer.headers["X-APIShield-Degraded"] for answer in answers} == {"true"}


def test_a_redis_without_its_extra_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("apishield.integrations.local.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "apishield\[redis\]"'):
        RateLimitMiddleware(hello, limit="1/hour", store="redis://localhost")
