"""``RateLimitMiddleware`` around ASGI apps of every kind, asking a real HTTP server that the test steers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.testclient import TestClient
from starlette.responses import StreamingResponse
from starlette.testclient import WebSocketDenialResponse

from apishield import RateLimitMiddleware
from apishield.integrations.breaker import Breaker
from tests.support.fake_service import FakeService, allowed, refused, serving

Scope = dict[str, Any]
SILENT = 0.05  # a time-out for tests in which the service stays silent


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    service = FakeService()
    async with serving(service) as url:
        service.url = url
        yield service
        service.answering.set()


@pytest.fixture
def seconds() -> list[float]:
    """The breaker's clock."""
    return [1000.0]


Protect = Callable[..., RateLimitMiddleware]


@pytest.fixture
async def protect(service: FakeService, seconds: list[float]) -> AsyncIterator[Protect]:
    made: list[RateLimitMiddleware] = []

    def protect(app: Any, **options: Any) -> RateLimitMiddleware:
        middleware = RateLimitMiddleware(app, **{"apishield_url": service.url, "api_key": "sk_live_service"} | options)
        middleware.protection.guard.availability.breaker = Breaker(lambda: seconds[0])  # type: ignore[attr-defined]
        made.append(middleware)
        return middleware

    yield protect
    for middleware in made:
        await middleware.protection.guard.close()


async def hello(scope: Scope, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


def client_of(app: Any, **options: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, client=("198.51.100.7", 4711), **options)
    return httpx2.AsyncClient(transport=transport, base_url="http://api.test")


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
    api.add_middleware(RateLimitMiddleware, **{"apishield_url": service.url, "api_key": "sk_live_service"} | options)
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


# --- reports ----------------------------------------------------------------------------------------------------------


async def test_reports_travel_together_behind_the_responses(service: FakeService, protect: Protect) -> None:
    app = protect(hello)
    async with client_of(app) as client:
        for _ in range(5):
            await client.get("/")
    assert service.reports == []  # nothing waited for them
    await app.protection.guard.close()
    assert [request for request in service.requests if request[0] == "/v1/report"] == [("/v1/report", 5)]
    report = service.reports[0]
    assert (report["status"], report["bytes"]) == (200, 5)
    assert report["latency_ms"] >= 0


async def test_reports_go_out_by_themselves_when_many_wait(service: FakeService, protect: Protect) -> None:
    async with client_of(protect(hello)) as client:
        for _ in range(500):
            await client.get("/")
        while not service.reports:
            await asyncio.sleep(0)
    assert len(service.reports) == 500


async def test_refusals_and_unchecked_requests_are_not_reported(service: FakeService, protect: Protect) -> None:
    app = protect(hello)
    async with client_of(app) as client:
        service.decide = lambda check: refused("blocked", 403)
        await client.get("/")
        service.fails_with = (500, {"code": "internal", "status": 500})
        await client.get("/")
    service.fails_with = None
    await app.protection.guard.close()
    assert service.reports == []


async def test_reports_can_be_turned_off(service: FakeService, protect: Protect) -> None:
    app = protect(hello, report=False)
    async with client_of(app) as client:
        await client.get("/")
    await app.protection.guard.close()
    assert service.reports == []


async def test_reports_wait_for_a_service_that_is_away(service: FakeService, protect: Protect) -> None:
    app = protect(hello)
    async with client_of(app) as client:
        await client.get("/")
        service.fails_with = (503, {"code": "database_unavailable", "status": 503})
        await app.protection.guard.close()
        assert service.reports == []
        service.fails_with = None
        await client.get("/")
        await app.protection.guard.close()
    assert len(service.reports) == 2


# --- batches ----------------------------------------------------------------------------------------------------------


async def test_checks_that_wait_together_travel_together_and_are_answered_apart(
    service: FakeService, protect: Protect
) -> None:
    service.decide = lambda check: refused("blocked", 403) if check["path"].endswith("7") else allowed()
    async with client_of(protect(hello)) as client:
        answers = await asyncio.gather(*(client.get(f"/{number}") for number in range(100)))
    assert [answer.status_code for answer in answers] == [403 if n % 10 == 7 else 200 for n in range(100)]
    assert sorted(int(check["path"][1:]) for check in service.checks) == list(range(100))
    assert len([path for path, _ in service.requests if path != "/v1/report"]) <= 10


async def test_a_check_whose_client_has_gone_before_it_was_sent_is_not_charged(
    service: FakeService, protect: Protect
) -> None:
    service.answering.clear()
    async with client_of(protect(hello)) as client:
        busy = []
        for number in range(4):
            busy.append(asyncio.create_task(client.get("/busy")))
            while len(service.checks) <= number:
                await asyncio.sleep(0)
        gone, waiting = asyncio.create_task(client.get("/gone")), asyncio.create_task(client.get("/waiting"))
        for _ in range(20):
            await asyncio.sleep(0)
        gone.cancel()
        service.answering.set()
        await asyncio.gather(*busy, waiting)
    assert "/gone" not in [check["path"] for check in service.checks]


# --- bad days ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503)])
async def test_a_silent_service_costs_one_time_out_and_then_nothing(
    service: FakeService, protect: Protect, on_error: str, status: int
) -> None:
    service.answering.clear()
    async with client_of(protect(hello, on_error=on_error, timeout_seconds=SILENT)) as client:
        first = await client.get("/")
        asked = len(service.requests)
        rest = [await client.get("/") for _ in range(50)]
    assert {answer.status_code for answer in (first, *rest)} == {status}
    assert {answer.headers["X-APIShield-Degraded"] for answer in (first, *rest)} == {"true"}
    assert len(service.requests) == asked
    if on_error == "deny":
        assert first.json()["code"] == "store_unavailable"
        assert "Retry-After" not in first.headers


async def test_all_that_wait_are_answered_when_the_first_times_out(service: FakeService, protect: Protect) -> None:
    service.answering.clear()
    async with client_of(protect(hello, timeout_seconds=SILENT)) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(300)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers.get("X-APIShield-Degraded") for answer in answers} == {"true"}


async def test_an_app_that_blocks_its_own_loop_does_not_take_the_service_for_gone(
    service: FakeService, protect: Protect
) -> None:
    async with client_of(protect(hello, timeout_seconds=SILENT)) as client:
        request = asyncio.create_task(client.get("/"))
        for _ in range(3):  # the question is being asked
            await asyncio.sleep(0)
        time.sleep(2 * SILENT)  # what a blocking handler does
        answer = await request
    assert service.checks
    assert "X-APIShield-Degraded" not in answer.headers


async def test_it_heals_by_itself_by_a_probe_that_charges_nobody(
    service: FakeService, protect: Protect, seconds: list[float]
) -> None:
    service.fails_with = (503, {"code": "database_unavailable", "status": 503})
    async with client_of(protect(hello)) as client:
        assert (await client.get("/")).headers["X-APIShield-Degraded"] == "true"
        service.fails_with = None
        seconds[0] += 10
        during = await client.get("/")
        assert during.headers["X-APIShield-Degraded"] == "true"  # it did not wait for the probe
        while not service.checks:
            await asyncio.sleep(0)
        assert service.checks == [{"cost": 0}]
        while "X-APIShield-Degraded" in (await client.get("/")).headers:
            await asyncio.sleep(0)


@pytest.mark.parametrize("status", [401, 403, 404, 421, 429])
async def test_a_wrong_service_key_is_said_loudly_and_handled_by_on_error(
    service: FakeService, protect: Protect, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    service.fails_with = (status, {"code": "token_invalid", "status": status, "detail": "The credential is unknown."})
    with caplog.at_level(logging.WARNING, "apishield"):
        async with client_of(protect(hello, on_error="deny")) as client:
            answers = [await client.get("/") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {503}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "The credential is unknown." in errors[0].getMessage()
    assert "sk_live" not in caplog.text


async def test_a_check_that_the_service_can_not_use_is_no_way_around_it(service: FakeService, protect: Protect) -> None:
    service.fails_with = (422, {"code": "validation_failed", "status": 422})
    async with client_of(protect(hello, on_error="allow")) as client:
        assert (await client.get("/")).status_code == 400
        service.fails_with = None
        assert (await client.get("/")).status_code == 200  # and no outage for anyone else


Headers = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"\xff\xfe\x00")],
        [(b"x-api-key", b"k" * 65_536)],
        [(b"authorization", b"Bearer sk_\xe4\xf6")],
        [(b"user-agent", b"\xf0" * 5000)],
        [(b"x-request-id", b"a\r\nb" * 4)],
        [(b"x-api-key", b"sk_live_a")] * 50,
    ],
)
async def test_odd_headers_are_asked_about_like_any_other(
    service: FakeService, protect: Protect, headers: Headers
) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/\x00\udcff", "headers": headers, "client": None}
    await protect(hello, on_error="deny")(scope, receive, send)
    assert sent[0]["status"] == 200
    assert len(service.checks) == 1
