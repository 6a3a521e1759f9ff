"""``RateLimitMiddleware`` around ASGI apps of every kind, asking a real HTTP server that the test steers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.testclient import TestClient
from starlette.responses import StreamingResponse
from starlette.testclient import WebSocketDenialResponse

from apishield import RateLimitMiddleware
from tests.support.fake_service import FakeService, allowed, refused
from tests.support.protected import Protect, client_of, hello, protect, seconds, service

__all__ = ["protect", "seconds", "service"]  # fixtures

Scope = dict[str, Any]


# --- passing and refusing ---------------------------------------------------------------------------------------------


async def test_what_is_allowed_passes_with_the_decisions_headers(service: FakeService, protect: Protect) -> None:
    async with client_of(protect(hello)) as client:
        answer = await client.get("/orders/1?secret=1", headers={"X-API-Key": "sk_live_caller", "User-Agent": "test"})
    assert (answer.status_code, answer.text) == (200, "hello")
    assert answer.headers["RateLimit"] == '"default";r=99;t=60'
    assert answer.headers["X-APIShield-Decision"].startswith("dec_")
    assert service.checks == [
        {
            "api_key": "sk_live_caller",
            "ip": "198.51.100.7",
            "method": "GET",
            "path": "/orders/1",
            "user_agent": "test",
        }
    ]
    assert service.headers[0]["authorization"] == "Bearer sk_live_service"


@pytest.mark.parametrize(
    ("code", "status", "headers"),
    [
        ("key_unknown", 401, {"WWW-Authenticate": 'Bearer realm="api"'}),
        ("scope_missing", 403, {}),
        ("blocked", 403, {}),
        ("rate_limited", 429, {"Retry-After": "13"}),
        ("store_unavailable", 503, {}),
        ("bad_request", 400, {}),
    ],
)
async def test_what_is_refused_never_reaches_the_app(
    service: FakeService, protect: Protect, code: str, status: int, headers: dict[str, str]
) -> None:
    async def unreachable(scope: Scope, receive: Any, send: Any) -> None:
        raise AssertionError("the app was called")

    service.decide = lambda check: refused(code, status, **headers)
    async with client_of(protect(unreachable)) as client:
        answer = await client.post("/orders", json={"a": 1})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert {name: answer.headers[name] for name in headers} == headers


async def test_options_reach_the_check(service: FakeService, protect: Protect) -> None:
    app = protect(hello, require_key=True, cost=lambda scope: len(scope["path"]), scopes=["orders:read"])
    async with client_of(app) as client:
        await client.get("/orders")
    check = service.checks[0]
    assert (check["require_key"], check["cost"], check["scopes"]) == (True, 7, ["orders:read"])


async def test_an_exempt_path_is_not_asked_about_wherever_the_app_is_mounted(
    service: FakeService, protect: Protect
) -> None:
    app = protect(hello, exempt=["/healthz"])
    async with client_of(app) as client:
        await client.get("/healthz")
    async with client_of(app, root_path="/api") as client:
        await client.get("/api/healthz")
    assert service.checks == []


async def test_a_handler_sees_the_decision(service: FakeService, protect: Protect) -> None:
    service.decide = lambda check: allowed(
        key={
            "id": "key_1",
            "name": "n",
            "scopes": ["read"],
            "environment": "live",
            "customer_id": "cus_1",
            "metadata": {},
        }
    )
    api = FastAPI()

    @api.get("/")
    def who(request: Request) -> str:
        customer: str = request.state.apishield.key.customer_id
        return customer

    async with client_of(protect(api)) as client:
        assert (await client.get("/")).json() == "cus_1"


async def test_the_apps_errors_stay_its_own_and_are_reported_as_500(service: FakeService, protect: Protect) -> None:
    async def broken(scope: Scope, receive: Any, send: Any) -> None:
        raise LookupError("mine")

    app = protect(broken)
    async with client_of(app) as client:
        with pytest.raises(LookupError, match="mine"):
            await client.get("/")
    await app.protection.guard.close()
    assert [report["status"] for report in service.reports] == [500]


# --- every kind of app ------------------------------------------------------------------------------------------------


def an_api() -> FastAPI:
    api = FastAPI()
    inner = FastAPI()

    @api.get("/async")
    async def asynchronous() -> str:
        return "async"

    @api.get("/sync")
    def synchronous() -> str:
        return "sync"

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(3):
                yield f"part {number};".encode()

        return StreamingResponse(parts())

    @api.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @inner.get("/sync")
    def mounted() -> str:
        return "mounted"

    @api.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text((await websocket.receive_text()).upper())
        except WebSocketDisconnect:
            pass

    api.mount("/inner", inner)
    return api


async def in_thread(work: Callable[[], Any]) -> Any:
    """Runs blocking code beside the loop that serves the fake service."""
    return await asyncio.to_thread(work)


def fastapi_app(service: FakeService, **options: Any) -> FastAPI:
    api = an_api()
    asked: dict[str, Any] = {"apishield_url": service.url, "api_key": "sk_live_service", "timeout_seconds": 1.0}
    api.add_middleware(RateLimitMiddleware, **asked | options)
    return api


async def test_handlers_of_every_kind_answer_through_fastapis_add_middleware(service: FakeService) -> None:
    def work() -> list[tuple[int, str]]:
        with TestClient(fastapi_app(service)) as client:
            answers = [
                client.get("/async"),
                client.get("/sync"),
                client.get("/stream"),
                client.get("/inner/sync"),
                client.post("/echo", content=b"x" * 100_000),
                client.get("/missing"),
            ]
            assert all(answer.headers["X-APIShield-Decision"] for answer in answers)
            return [(answer.status_code, answer.text) for answer in answers]

    assert await in_thread(work) == [
        (200, '"async"'),
        (200, '"sync"'),
        (200, "part 0;part 1;part 2;"),
        (200, '"mounted"'),
        (200, "100000"),
        (404, '{"detail":"Not Found"}'),
    ]
    assert [check["path"] for check in service.checks][3] == "/inner/sync"
    assert sorted(report["status"] for report in service.reports) == [200, 200, 200, 200, 200, 404]
    assert {report["bytes"] for report in service.reports} >= {21}


async def test_a_client_without_a_lifespan_and_with_a_new_loop_for_each_request_works(service: FakeService) -> None:
    def work() -> list[int]:
        client = TestClient(fastapi_app(service))
        return [client.get("/sync").status_code for _ in range(3)]

    assert await in_thread(work) == [200, 200, 200]
    assert len(service.reports) == 3  # sent as each loop ended


async def test_an_open_websocket_passes_and_its_handshake_is_one_check(service: FakeService) -> None:
    def work() -> tuple[list[str], str]:
        with TestClient(fastapi_app(service)) as client, client.websocket_connect("/socket") as socket:
            texts = []
            for text in ("a", "b", "c"):
                socket.send_text(text)
                texts.append(socket.receive_text())
            return texts, dict[bytes, bytes](socket.extra_headers or ())[b"x-apishield-decision"].decode()

    texts, decision_id = await in_thread(work)
    assert texts == ["A", "B", "C"]
    assert decision_id.startswith("dec_")
    assert [(check["method"], check["path"]) for check in service.checks] == [("GET", "/socket")]
    assert [report["status"] for report in service.reports] == [101]


async def test_a_refused_handshake_is_answered_with_the_problem(service: FakeService) -> None:
    service.decide = lambda check: refused("rate_limited", 429, **{"Retry-After": "13"})

    def work() -> WebSocketDenialResponse:
        client = TestClient(fastapi_app(service))
        with pytest.raises(WebSocketDenialResponse) as raised, client.websocket_connect("/socket"):
            pass
        return raised.value

    denial = await in_thread(work)
    assert (denial.status_code, denial.json()["code"], denial.headers["Retry-After"]) == (429, "rate_limited", "13")


async def test_a_server_that_can_not_answer_a_handshake_closes_it(service: FakeService, protect: Protect) -> None:
    service.decide = lambda check: refused("blocked", 403)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/socket", "headers": [], "client": ("198.51.100.7", 1)}
    await protect(hello)(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "blocked"}]


async def test_the_lifespan_and_unknown_kinds_pass_untouched(service: FakeService, protect: Protect) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    middleware = protect(app)
    for kind in ("lifespan", "invented.later"):
        await middleware({"type": kind}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan", "invented.later"]
    assert service.checks == []


async def test_a_file_that_the_server_sends_by_itself_is_reported_with_its_size(
    service: FakeService, protect: Protect
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 206, "headers": [(b"Content-Length", b"1234")]})
        await send({"type": "http.response.pathsend", "path": "/srv/film.mp4"})

    async def ignore(message: Any) -> None: ...

    protected = protect(app)
    scope = {"type": "http", "method": "GET", "path": "/film.mp4", "headers": [], "client": ("198.51.100.7", 1)}
    await protected(scope, ignore, ignore)  # type: ignore[arg-type]
    await protected.protection.guard.close()
    assert [(report["status"], report["bytes"]) for report in service.reports] == [(206, 1234)]


async def test_a_client_that_goes_away_ends_its_request_and_is_reported(service: FakeService, protect: Protect) -> None:
    entered = asyncio.Event()

    async def endless(scope: Scope, receive: Any, send: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    app = protect(endless)
    async with client_of(app) as client:
        request = asyncio.create_task(client.get("/"))
        await entered.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await app.protection.guard.close()
    assert [report["status"] for report in service.reports] == [499]
