"""``RateLimitMiddleware`` without a service, over a real Redis: several processes share the limit."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx2
import pytest

from apishield import RateLimitMiddleware
from tests.support.services import RedisServer


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def client_of(app: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, client=("198.51.100.7", 1))
    return httpx2.AsyncClient(transport=transport, base_url="http://api.test")


async def test_two_apps_admit_exactly_the_limit_together(redis_url: str) -> None:
    apps = [RateLimitMiddleware(hello, limit="50/hour", per="ip", store=redis_url) for _ in range(2)]
    async with client_of(apps[0]) as one, client_of(apps[1]) as other:
        answers = await asyncio.gather(*((one, other)[n % 2].get("/") for n in range(120)))
    for app in apps:
        await app.protection.guard.close()
    assert Counter(answer.status_code for answer in answers) == {200: 50, 429: 70}


async def test_apps_of_different_namespaces_count_apart(redis_url: str) -> None:
    statuses = []
    for namespace in ("shop", "blog"):
        app = RateLimitMiddleware(hello, limit="1/hour", store=redis_url, namespace=namespace)
        async with client_of(app) as client:
            statuses += [(await client.get("/")).status_code for _ in range(2)]
        await app.protection.guard.close()
    assert statuses == [200, 429, 200, 429]


async def test_no_key_of_a_caller_is_stored(redis_url: str, redis_server: RedisServer) -> None:
    app = RateLimitMiddleware(hello, limit="1/hour", per="key", store=redis_url)
    async with client_of(app) as client:
        await client.get("/", headers={"X-API-Key": "sk_live_canary"})
    await app.protection.guard.close()
    with redis_server.client() as redis:
        keys: list[bytes] = redis.keys()
        assert keys
        assert not any(b"canary" in part for key in keys for part in (key, redis.dump(key) or b""))


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503)])
async def test_a_redis_that_dies_is_handled_by_on_error_and_it_heals_by_itself(
    redis_url: str, redis_server: RedisServer, on_error: Any, status: int
) -> None:
    app = RateLimitMiddleware(hello, limit="1000/hour", store=redis_url, on_error=on_error)
    async with client_of(app) as client:
        assert "X-APIShield-Degraded" not in (await client.get("/")).headers
        redis_server.kill()
        answers = [await client.get("/") for _ in range(20)]
        assert {answer.status_code for answer in answers} == {status}
        assert {answer.headers["X-APIShield-Degraded"] for answer in answers} == {"true"}
        redis_server.heal()
        while "RateLimit" not in (answer := await client.get("/")).headers:
            await asyncio.sleep(0.01)
    assert answer.status_code == 200
    assert answer.headers["X-APIShield-Degraded"] == "true"  # the hour reaches back to what the old one had counted
    await app.protection.guard.close()
