"""A real Nginx in front of an API that knows nothing of limits, with the configuration of the how-to, to the letter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from apishield import APIShield
from tests.support.nginx import Nginx
from tests.support.processes import Reaper
from tests.support.service import Service


@pytest.fixture
def nginx(
    start_service: Callable[..., Service], reaper: Reaper, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[str, APIShield]]:
    """The address of Nginx, and an owner of the tenant whose key it has. A parameter is settings of the service."""
    service = start_service(**getattr(request, "param", {}))
    made = service.sign_up("Behind Nginx")
    service_key = made["api_key"]["key"]
    server = Nginx(reaper, tmp_path, service, service_key)
    with APIShield(service.url, token=made["token"], api_key=service_key) as owner:
        yield server.url, owner
    server.kill()


async def test_nginx_lets_through_up_to_the_limit_and_says_the_rest_in_true_statuses(
    nginx: tuple[str, APIShield],
) -> None:
    url, owner = nginx
    limit = {"strategy": "sliding_window", "requests": 5, "window_seconds": 3600}
    key = owner.create_key("k", scopes=["read"], rate_limit=limit)
    assert key.key is not None
    async with httpx2.AsyncClient(base_url=url, headers={"X-API-Key": key.key}) as client:
        answers = await asyncio.gather(*(client.get("/orders?page=2") for _ in range(20)))
        allowed = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert (len(allowed), len(refused)) == (5, 15)
        assert {answer.text for answer in allowed} == {"the API"}
        assert allowed[0].headers["RateLimit-Policy"] == '"default";q=5;w=3600'
        assert 0 < int(refused[0].headers["Retry-After"]) <= 3600
        assert refused[0].json()["decision_id"] == refused[0].headers["X-APIShield-Decision"]
        assert (await client.post("/orders")).status_code == 403  # the key may only read
    async with httpx2.AsyncClient(base_url=url) as client:
        assert (await client.get("/orders", headers={"X-API-Key": "sk_live_nonsense"})).status_code == 401
        forged = {"X-APIShield-Client-IP": "198.51.100.9", "X-Original-URI": "/free", "X-Original-Method": "GET"}
        owner.block(ip="127.0.0.1", reason="test")
        assert (await client.get("/orders", headers=forged)).status_code == 403


@pytest.mark.parametrize(
    ("nginx", "expected"),
    [
        ({"APISHIELD_RATE_LIMIT_HEADERS": "draft"}, {"ratelimit", "ratelimit-policy"}),
        (
            {"APISHIELD_RATE_LIMIT_HEADERS": "legacy"},
            {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"},
        ),
    ],
    indirect=["nginx"],
)
async def test_nginx_passes_on_the_headers_that_the_service_is_told_to_give(
    nginx: tuple[str, APIShield], expected: set[str]
) -> None:
    url, owner = nginx
    key = owner.create_key("k", scopes=["read"], rate_limit="1/hour")
    assert key.key is not None
    async with httpx2.AsyncClient(base_url=url, headers={"X-API-Key": key.key}) as client:
        for status in (200, 429):
            answer = await client.get("/orders")
            assert answer.status_code == status
            assert {name for name in answer.headers if "ratelimit" in name} == expected
        assert answer.headers["Retry-After"]
