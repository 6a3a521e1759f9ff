"""A real FastAPI app under uvicorn, behind ``RateLimitMiddleware``, with the real service as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx2
import msgspec
import pytest

from apishield import APIShield
from apishield.services.secrets import Secrets
from tests.support.mistakes import mistype
from tests.support.processes import Reaper, ServerProcess, accepts_connections, free_port, wait_until
from tests.support.prometheus import read_samples
from tests.support.service import Service, ready

StartService = Callable[..., Service]
TIMEOUT_SECONDS = 0.5

APP = """
import json, os
from fastapi import FastAPI, Request
from apishield import RateLimitMiddleware

app = FastAPI()

@app.get("/orders")
async def orders():
    return "orders"

@app.post("/orders")
def create():
    return "created"

@app.post("/complete")
async def complete(request: Request):
    request.state.apishield.settle({"tokens": 812})
    return "words"

app.add_middleware(RateLimitMiddleware, **json.loads(os.environ["OPTIONS"]))
"""


class App(ServerProcess):
    """The app that is protected."""

    def __init__(self, reaper: Reaper, directory: Path, options: dict[str, Any], workers: int) -> None:
        self.port = free_port()
        directory.mkdir()
        (directory / "app.py").write_text(APP)
        command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(self.port), "--workers", str(workers)]
        command += ["--no-access-log", "--no-proxy-headers"]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "OPTIONS": msgspec.json.encode(options).decode()}
        super().__init__(
            reaper, command, lambda: accepts_connections(self.port), directory=directory, environment=environment
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Tenant:
    """A tenant of the service, with an owner's client and a service key."""

    client: APIShield
    service_key: str

    def caller(self, limit: Any = "1000/hour", **fields: Any) -> dict[str, str]:
        """The headers of a new caller."""
        secret = self.client.create_key("caller", rate_limit=limit, **({"scopes": ["read"]} | fields)).key
        assert secret is not None
        return {"X-API-Key": secret}


def tenant_of(service: Service) -> Tenant:
    made = service.sign_up()
    return Tenant(APIShield(service.url, token=made["token"]), made["api_key"]["key"])


@pytest.fixture
def start_app(reaper: Reaper, tmp_path: Path) -> Iterator[Callable[..., App]]:
    started: list[App] = []

    def start(service: Service, tenant: Tenant, *, workers: int = 1, **options: Any) -> App:
        defaults = {
            "apishield_url": service.url,
            "api_key": tenant.service_key,
            "trusted_proxies": ["127.0.0.1"],
            "timeout_seconds": 1.0,
            "on_error": "deny",
        }
        started.append(App(reaper, tmp_path / f"app-{len(started)}", defaults | options, workers))
        return started[-1]

    yield start
    for app in started:
        app.kill()


StartApp = Callable[..., App]


async def hammer(urls: list[str], headers: dict[str, str], count: int, concurrency: int = 20) -> list[httpx2.Response]:
    """``count`` requests, shared out over ``urls``, with at most ``concurrency`` at a time."""
    numbers = iter(range(count))
    answers: list[httpx2.Response] = []

    async def worker(client: httpx2.AsyncClient) -> None:
        for number in numbers:
            answer = await client.get(f"{urls[number % len(urls)]}/orders", headers=headers)
            answers.append(answer)

    async with httpx2.AsyncClient(timeout=30) as client:
        await asyncio.gather(*(worker(client) for _ in range(concurrency)))
    return answers


def statuses(answers: list[httpx2.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


@pytest.mark.parametrize("workers", [1, 2])
async def test_exactly_the_limit_is_served_however_many_ask_at_once(
    start_service: StartService, start_app: StartApp, workers: int
) -> None:
    service = start_service()
    tenant = tenant_of(service)
    app = start_app(service, tenant, workers=workers)
    answers = await hammer([app.url], tenant.caller("200/hour"), 300)
    assert statuses(answers) == {200: 200, 429: 100}
    served = next(answer for answer in answers if answer.status_code == 200)
    assert "q=200;w=3600" in served.headers["RateLimit-Policy"]
    assert served.headers["X-RateLimit-Limit"] == "200"
    assert served.headers["X-APIShield-Decision"].startswith("dec_")
    assert "Retry-After" not in served.headers
    refused = answers[-1]
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert 3500 <= int(refused.headers["Retry-After"]) <= 3600
    assert refused.json()["code"] == "rate_limited"


async def test_exactly_the_limit_is_served_by_two_apps_on_two_nodes(
    start_service: StartService, start_app: StartApp, postgres_url: str, redis_url: str
) -> None:
    shared = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url, "APISHIELD_SECRET": Secrets.generate()}
    nodes = [start_service(**shared) for _ in range(2)]
    tenant = tenant_of(nodes[0])
    apps = [start_app(node, tenant) for node in nodes]
    answers = await hammer([app.url for app in apps], tenant.caller("200/hour"), 300)
    assert statuses(answers) == {200: 200, 429: 100}


def test_who_may_not_gets_the_right_refusal(start_service: StartService, start_app: StartApp) -> None:
    service = start_service()
    tenant = tenant_of(service)
    app = start_app(service, tenant)
    reader = tenant.caller()
    tenant.client.block(ip="192.0.2.66", reason="scraping")
    revoked = tenant.client.create_key("old", scopes=["read"])
    tenant.client.revoke_key(revoked.id)

    def ask(method: str, headers: dict[str, str]) -> tuple[int, str]:
        answer = httpx2.request(method, f"{app.url}/orders?token=x", headers=headers)
        code = answer.json()["code"] if answer.status_code != 200 else "ok"
        assert ("WWW-Authenticate" in answer.headers) == (answer.status_code == 401)
        assert "Retry-After" not in answer.headers
        return answer.status_code, code

    mistyped = {"X-API-Key": mistype(reader["X-API-Key"])}
    assert ask("GET", reader) == (200, "ok")
    assert ask("GET", {"Authorization": f"Bearer {reader['X-API-Key']}"}) == (200, "ok")
    assert ask("GET", {"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln"}) == (200, "ok")
    assert ask("GET", mistyped) == (401, "key_malformed")
    assert ask("GET", {"X-API-Key": "an-unknown-key-of-any-shape"}) == (401, "key_unknown")
    assert ask("GET", {"X-API-Key": revoked.key or ""}) == (401, "key_revoked")
    assert ask("GET", {"X-API-Key": tenant.service_key}) == (401, "key_wrong_kind")
    assert ask("POST", reader) == (403, "scope_missing")
    assert ask("GET", reader | {"X-Forwarded-For": "192.0.2.66"}) == (403, "blocked")
    assert ask("GET", reader | {"X-Forwarded-For": "192.0.2.66, 203.0.113.5"}) == (200, "ok")


def test_what_the_app_settles_counts_instead_of_what_was_reserved(
    start_service: StartService, start_app: StartApp
) -> None:
    service = start_service()
    tenant = tenant_of(service)
    limit = {"strategy": "sliding_window", "requests": 5000, "window_seconds": 3600, "unit": "tokens", "name": "tokens"}
    caller = tenant.caller(limit, scopes=["write"])
    app = start_app(service, tenant, cost={"requests": 1, "tokens": 4000}, reserve=True)
    assert httpx2.post(f"{app.url}/complete", headers=caller, timeout=30).status_code == 200
    app.terminate()  # sends the last reports
    peek = tenant.client.check(api_key=caller["X-API-Key"], method="POST", cost=0)
    assert peek.limits[0].remaining == 5000 - 812


def test_callers_see_the_headers_that_the_service_is_told_to_give(
    start_service: StartService, start_app: StartApp
) -> None:
    service = start_service(APISHIELD_RATE_LIMIT_HEADERS="legacy")
    tenant = tenant_of(service)
    app, caller = start_app(service, tenant), tenant.caller("1/hour")
    for status in (200, 429):
        answer = httpx2.get(f"{app.url}/orders", headers=caller, timeout=30)
        assert answer.status_code == status
        found = {name for name in answer.headers if "ratelimit" in name}
        assert found == {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}
    assert answer.headers["Retry-After"]


async def test_callers_without_a_key_share_the_anonymous_policy_per_address(
    start_service: StartService, start_app: StartApp
) -> None:
    service = start_service()
    tenant = tenant_of(service)
    app = start_app(service, tenant)
    assert statuses(await hammer([app.url], {"X-Forwarded-For": "203.0.113.1"}, 80)) == {200: 60, 429: 20}
    assert statuses(await hammer([app.url], {"X-Forwarded-For": "203.0.113.2"}, 1)) == {200: 1}
    strict = start_app(service, tenant, require_key=True)
    answer = httpx2.get(f"{strict.url}/orders")
    assert (answer.status_code, answer.json()["code"]) == (401, "key_missing")


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503)])
async def test_a_service_that_dies_or_freezes_never_stalls_the_app_and_is_taken_back(
    start_service: StartService, start_app: StartApp, how: str, on_error: str, status: int
) -> None:
    service = start_service()
    tenant = tenant_of(service)
    app = start_app(service, tenant, on_error=on_error, timeout_seconds=TIMEOUT_SECONDS)
    caller = tenant.caller()
    assert statuses(await hammer([app.url], caller, 10)) == {200: 10}
    getattr(service, how)()
    started = perf_counter()
    answers = await hammer([app.url], caller, 200)
    # It takes about one time-out, and not one for each request of each of the 20 that ask in turn.
    assert perf_counter() - started < 200 / 20 * TIMEOUT_SECONDS
    assert statuses(answers) == {status: 200}
    assert {answer.headers["X-APIShield-Degraded"] for answer in answers} == {"true"}
    service.heal()
    async with httpx2.AsyncClient() as client:
        while "X-APIShield-Degraded" in (answer := await client.get(f"{app.url}/orders", headers=caller)).headers:
            await asyncio.sleep(0.02)
    assert answer.status_code == 200
    assert "APIShield at http" in app.log


async def test_a_flood_of_unknown_keys_gets_nobody_in_and_does_not_hold_up_who_is_known(
    start_service: StartService, start_app: StartApp
) -> None:
    service = start_service()
    tenant = tenant_of(service)
    app = start_app(service, tenant, require_key=True, on_error="allow", timeout_seconds=TIMEOUT_SECONDS)
    caller = tenant.caller("1000000/hour")
    assert statuses(await hammer([app.url], caller, 1)) == {200: 1}

    async def intrude(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(
            f"GET /orders HTTP/1.1\r\nHost: x\r\nX-API-Key: intruder-{number:020}\r\nConnection: close\r\n\r\n".encode()
        )
        status = int((await reader.read())[9:12])
        writer.close()
        return status

    flood = asyncio.gather(*(intrude(number) for number in range(2000)), return_exceptions=True)
    known = await hammer([app.url], caller, 50, concurrency=2)
    intruded = Counter(status for status in await flood if isinstance(status, int))
    assert set(intruded) <= {401, 503}, intruded
    assert intruded[401] > 0
    assert statuses(known) == {200: 50}
    assert not any("X-APIShield-Degraded" in answer.headers for answer in known)
    assert "APIShield at http" not in app.log or "can't keep up" in app.log


def test_what_became_of_requests_is_reported_at_the_latest_when_the_app_stops(
    start_service: StartService, start_app: StartApp
) -> None:
    service = start_service()
    tenant = tenant_of(service)
    app = start_app(service, tenant)
    caller = tenant.caller()
    for _ in range(7):
        httpx2.get(f"{app.url}/orders", headers=caller)
    app.terminate()  # an orderly shutdown, with its lifespan

    def results() -> float:
        return read_samples(httpx2.get(f"{service.url}/metrics").text).get(("apishield_results_total", "2xx"), 0)

    wait_until(lambda: results() >= 7, "the ledger to take what was reported")
    assert results() == 7
    assert ready(service.url)
