"""Who is let through while nobody can say who calls: by floods, outages and slow answers nobody gets past a verification."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from apishield.core.decision import Decision
from apishield.integrations.seen_keys import UNKNOWN_SECONDS, VERIFIED_SECONDS, SeenKeys
from tests.support.fake_service import FakeService, allowed, refused
from tests.support.protected import Protect, client_of, hello, protect, seconds, service

__all__ = ["protect", "seconds", "service"]  # fixtures

KEY: dict[str, Any] = {"id": "key_1", "name": "n", "environment": "live", "customer_id": None, "metadata": {}}
ADA, MALLORY = {"X-API-Key": "sk_live_ada"}, {"X-API-Key": "sk_live_mallory"}
OUTAGE = (503, {"code": "database_unavailable", "status": 503})


def knows_ada(check: dict[str, Any]) -> dict[str, Any]:
    match check.get("api_key"):
        case None:
            return allowed()
        case "sk_live_ada":
            return allowed(key=KEY | {"scopes": ["read", "orders:*"]})
        case _:
            return refused("key_unknown", 401)


@pytest.fixture
async def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the loop that runs the test. Timers fire when it moves on."""
    time = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time[0])
    return time


# --- an outage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "options", "status"),
    [
        ("GET", {}, {}, 200),
        ("GET", {}, {"scopes": []}, 200),
        ("GET", {}, {"require_key": True}, 503),
        ("GET", {}, {"scopes": ["read"]}, 503),
        ("GET", MALLORY, {}, 503),
        ("GET", MALLORY, {"require_key": True}, 503),
        ("GET", ADA, {}, 200),
        ("GET", ADA, {"require_key": True}, 200),
        ("GET", ADA, {"scopes": ["orders:read"]}, 200),
        ("GET", ADA, {"scopes": ["orders:read", "admin"]}, 503),
        ("POST", ADA, {}, 503),
        ("GET", ADA, {"on_error": "deny"}, 503),
        ("GET", {}, {"on_error": "deny"}, 503),
    ],
)
async def test_while_the_service_is_away_only_those_pass_who_need_no_verification_or_had_one(
    service: FakeService, protect: Protect, method: str, headers: Any, options: Any, status: int
) -> None:
    service.decide = knows_ada
    async with client_of(protect(hello, **options)) as client:
        await client.get("/", headers=ADA)
        service.fails_with = OUTAGE
        answers = [await client.request(method, "/", headers=headers) for _ in range(2)]
    assert {answer.status_code for answer in answers} == {status}
    assert {answer.headers["X-APIShield-Degraded"] for answer in answers} == {"true"}


async def test_a_key_that_was_verified_from_one_address_is_not_taken_from_another(
    service: FakeService, protect: Protect
) -> None:
    service.decide = knows_ada
    app = protect(hello)
    async with client_of(app) as here, client_of(app, "198.51.100.8") as elsewhere:
        await here.get("/", headers=ADA)
        service.fails_with = OUTAGE
        assert (await elsewhere.get("/", headers=ADA)).status_code == 503
        assert (await here.get("/", headers=ADA)).status_code == 200


@pytest.mark.parametrize(("code", "status"), [("key_revoked", 401), ("blocked", 403)])
async def test_a_key_that_was_refused_since_is_no_longer_taken(
    service: FakeService, protect: Protect, code: str, status: int
) -> None:
    service.decide = knows_ada
    async with client_of(protect(hello)) as client:
        await client.get("/", headers=ADA)
        service.decide = lambda check: refused(code, status)
        await client.get("/", headers=ADA)
        service.fails_with = OUTAGE
        assert (await client.get("/", headers=ADA)).status_code == 503


# --- floods -----------------------------------------------------------------------------------------------------------


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_checks_that_wait_too_long_behind_others_are_refused_and_no_outage(
    service: FakeService, protect: Protect, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apishield.integrations.batches.MAX_BATCH", 1)
    app = protect(hello, on_error="allow", timeout_seconds=1.0)
    service.answering.clear()
    async with client_of(app) as client:
        early = [asyncio.create_task(client.get("/early")) for _ in range(4)]
        await until(lambda: len(service.checks) == 4)
        now[0] += 0.6
        late = [asyncio.create_task(client.get(path)) for path in (*["/late"] * 4, "/last")]
        for _ in range(20):
            await asyncio.sleep(0)
        now[0] += 0.3
        service.answering.set()  # the early ones are answered, the late ones sent
        service.answering.clear()
        await until(lambda: len(service.checks) == 8)
        now[0] += 0.8  # the late ones' time is over, but the service has had their checks for less than that
        answers = await asyncio.gather(*late)
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.headers["Retry-After"] for answer in answers} == {"1"}
        assert {answer.status_code for answer in await asyncio.gather(*early)} == {200}
        service.answering.set()
        after = await client.get("/after")
    assert (after.status_code, "X-APIShield-Degraded" in after.headers) == (200, False)
    assert "/last" not in [check["path"] for check in service.checks]  # it was told so, and nothing charged


async def test_a_service_that_falls_silent_under_load_is_still_noticed(
    service: FakeService, protect: Protect, now: list[float]
) -> None:
    service.answering.clear()
    async with client_of(protect(hello, timeout_seconds=1.0)) as client:
        under_way = []
        for number in range(4):
            under_way.append(asyncio.create_task(client.get("/")))
            await until(lambda number=number: len(service.checks) == number + 1)
        now[0] += 0.5
        waiting = asyncio.create_task(client.get("/"))
        for _ in range(20):
            await asyncio.sleep(0)
        now[0] += 0.501
        answers = await asyncio.gather(*under_way, waiting)
    assert {(answer.status_code, answer.headers.get("X-APIShield-Degraded")) for answer in answers} == {(200, "true")}


async def test_callers_that_are_known_overtake_a_flood_of_others(
    service: FakeService, protect: Protect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apishield.integrations.batches.MAX_IN_FLIGHT", 1)
    service.decide = knows_ada
    async with client_of(protect(hello)) as client:
        await client.get("/", headers=ADA)
        service.answering.clear()
        busy = asyncio.create_task(client.get("/busy"))
        await until(lambda: len(service.checks) == 2)
        flood = [asyncio.create_task(client.get("/", headers={"X-API-Key": f"sk_live_{n}"})) for n in range(100)]
        for _ in range(20):
            await asyncio.sleep(0)
        known = asyncio.create_task(client.get("/known", headers=ADA))
        for _ in range(20):
            await asyncio.sleep(0)
        service.answering.set()
        answers = await asyncio.gather(busy, known, *flood)
    assert [answer.status_code for answer in answers] == [200, 200, *[401] * 100]
    assert service.checks[2]["path"] == "/known"
    assert ("/v1/check", 1) in service.requests[2:]  # in a batch of its own: unknown keys make the service look twice


async def test_a_key_that_is_unknown_is_asked_about_once_a_second(service: FakeService, protect: Protect) -> None:
    service.decide = knows_ada
    app = protect(hello)
    clock = [1000.0]
    app.protection.guard.seen = SeenKeys(lambda: clock[0])  # type: ignore[attr-defined]
    async with client_of(app) as client:
        answers = [await client.get("/", headers=MALLORY) for _ in range(3)]
        assert [answer.json()["code"] for answer in answers] == ["key_unknown"] * 3
        assert len(service.checks) == 1
        clock[0] += UNKNOWN_SECONDS
        await client.get("/", headers=MALLORY)
    assert len(service.checks) == 2


# --- what is remembered -----------------------------------------------------------------------------------------------


def decision(fields: dict[str, Any]) -> Decision:
    return msgspec.convert(fields, Decision)


VERIFIED = decision(allowed(key=KEY | {"scopes": ["read"]}))


def test_a_verification_is_believed_for_five_minutes() -> None:
    clock = [0.0]
    seen = SeenKeys(lambda: clock[0])
    ada = seen.caller("sk_live_ada", "192.0.2.1")
    seen.note(ada, VERIFIED)
    clock[0] += VERIFIED_SECONDS - 1
    assert seen.verified(ada) == VERIFIED.key
    clock[0] += 1
    assert seen.verified(ada) is None


def test_no_more_is_remembered_than_there_is_room_for_and_the_oldest_is_forgotten_first() -> None:
    seen = SeenKeys(lambda: 0.0, capacity=2)
    a, b, c = (seen.caller(name, None) for name in "abc")
    for caller in (a, b, a, c):
        seen.note(caller, VERIFIED)
    assert [seen.verified(caller) is not None for caller in (a, b, c)] == [True, False, True]


def test_only_an_allowed_check_with_a_key_is_a_verification() -> None:
    seen = SeenKeys(lambda: 0.0)
    ada = seen.caller("sk_live_ada", None)
    for fields in (allowed(), refused("rate_limited", 429) | {"key": KEY | {"scopes": ["read"]}}):
        seen.note(ada, decision(fields))
    assert seen.verified(ada) is None


def test_what_is_remembered_names_no_key_and_differs_from_process_to_process() -> None:
    one, other = SeenKeys(lambda: 0.0), SeenKeys(lambda: 0.0)
    assert one.caller("sk_live_ada", None) != other.caller("sk_live_ada", None)
    assert b"ada" not in one.caller("sk_live_ada", None)
    assert one.caller("\udcff", "192.0.2.1") == one.caller("\udcff", "192.0.2.1")
