"""The same protection in FastAPI, WSGI, Flask and Django: same options, same answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Annotated, Any

import django
import httpx2
import pytest
import werkzeug.test
from django.conf import settings
from fastapi import Depends, FastAPI
from flask import Flask

from apishield import RateLimitMiddleware
from apishield.core.decision import Decision
from apishield.errors import ConfigurationError
from apishield.integrations import fastapi as for_fastapi
from apishield.integrations import flask as for_flask
from apishield.integrations import wsgi
from tests.support.fake_service import FakeService, allowed, refused, serving

KEY: dict[str, Any] = {"id": "key_1", "name": "n", "environment": "live", "customer_id": None, "metadata": {}}


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    service = FakeService()
    async with serving(service) as url:
        service.url = url
        yield service


def options_of(service: FakeService, **options: Any) -> Any:
    return {"apishield_url": service.url, "api_key": "sk_live_service", "timeout_seconds": 1.0} | options


def with_scopes(*scopes: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda check: allowed(key=KEY | {"scopes": list(scopes)})


# --- FastAPI ----------------------------------------------------------------------------------------------------------


def fastapi_client(service: FakeService, **options: Any) -> httpx2.AsyncClient:
    api = FastAPI()
    if options.pop("protected", True):
        api.add_middleware(RateLimitMiddleware, **options_of(service, **options))

    @api.delete("/orders", dependencies=[Depends(for_fastapi.require_scopes("orders:delete"))])
    async def delete(decision: Annotated[Decision, Depends(for_fastapi.current_decision)]) -> str:
        return decision.decision_id

    return httpx2.AsyncClient(transport=httpx2.ASGITransport(api), base_url="http://api.test")


@pytest.mark.parametrize(
    ("decide", "status", "code"),
    [
        (with_scopes("orders:*"), 200, None),
        (with_scopes("read"), 403, "scope_missing"),
        (lambda check: allowed(), 401, "key_missing"),
    ],
)
async def test_a_dependency_refuses_as_the_middleware_does(
    service: FakeService, decide: Any, status: int, code: str | None
) -> None:
    service.decide = decide
    async with fastapi_client(service) as client:
        answer = await client.delete("/orders")
    assert answer.status_code == status
    if code is not None:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert (answer.json()["code"], answer.json()["decision_id"][:4]) == (code, "dec_")
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("held", "on_error", "status"),
    [
        (["write", "orders:*"], "allow", 200),  # as it was verified before
        (["write"], "allow", 403),
        (None, "allow", 401),  # no key was presented, and that needs no service to be seen
        (["write", "orders:*"], "deny", 503),
    ],
)
async def test_scopes_are_held_to_while_the_service_is_away(
    service: FakeService, held: list[str] | None, on_error: str, status: int
) -> None:
    service.decide = with_scopes(*held or ())
    headers = {} if held is None else {"X-API-Key": "sk_live_ada"}
    async with fastapi_client(service, on_error=on_error) as client:
        await client.delete("/orders", headers=headers)
        service.fails_with = (503, {"code": "database_unavailable", "status": 503})
        assert (await client.delete("/orders", headers=headers)).status_code == status


async def test_a_caller_without_a_key_holds_no_scopes_while_the_services_store_is_away(service: FakeService) -> None:
    service.decide = lambda check: allowed(degraded=True)
    async with fastapi_client(service) as client:
        assert (await client.delete("/orders")).status_code == 401


async def test_a_dependency_without_the_middleware_says_what_is_missing(service: FakeService) -> None:
    async with fastapi_client(service, protected=False) as client:
        with pytest.raises(ConfigurationError, match="add RateLimitMiddleware"):
            await client.delete("/orders")


# --- WSGI -------------------------------------------------------------------------------------------------------------


def hello(environ: dict[str, Any], start_response: Any) -> Any:
    if environ["PATH_INFO"] == "/broken":
        raise LookupError("mine")
    write = start_response("200 OK", [("Content-Type", "text/plain"), ("X-RateLimit-Limit", "7")])
    if environ["PATH_INFO"] == "/written":
        write(b"hel")
        return iter([b"lo"])
    if environ["PATH_INFO"] == "/broken-stream":
        return broken_stream()
    return iter([b"hel", b"lo"])


def broken_stream() -> Iterator[bytes]:
    raise LookupError("mine")
    yield b""


@pytest.fixture
def wsgi_app(service: FakeService) -> Iterator[wsgi.RateLimitMiddleware]:
    app = wsgi.RateLimitMiddleware(hello, **options_of(service, exempt=["/healthz"]))
    yield app
    app.protection.close()


def ask(app: Any, method: str, path: str, **headers: str) -> httpx2.Response:
    transport = httpx2.WSGITransport(app, remote_addr="198.51.100.7")
    with httpx2.Client(transport=transport, base_url="http://api.test", headers=headers) as client:
        return client.request(method, path)


async def blocking(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Runs blocking code beside the loop that serves the fake service."""
    return await asyncio.to_thread(work, *arguments, **options)


async def test_a_wsgi_app_passes_with_headers_and_is_reported(
    service: FakeService, wsgi_app: wsgi.RateLimitMiddleware
) -> None:
    answer = await blocking(ask, wsgi_app, "GET", "/orders?q=1", **{"X-API-Key": "sk_live_caller"})
    assert (answer.status_code, answer.text) == (200, "hello")
    assert answer.headers["X-RateLimit-Limit"] == "7"
    assert "X-RateLimit-Remaining" not in answer.headers
    assert answer.headers["X-APIShield-Decision"].startswith("dec_")
    check = service.checks[0]
    assert (check["api_key"], check["ip"], check["path"]) == ("sk_live_caller", "198.51.100.7", "/orders")
    await blocking(wsgi_app.protection.close)
    assert [(report["status"], report["bytes"]) for report in service.reports] == [(200, 5)]


async def test_a_path_of_wsgi_is_sent_in_the_utf_8_that_it_is(
    service: FakeService, wsgi_app: wsgi.RateLimitMiddleware
) -> None:
    await blocking(werkzeug.test.Client(wsgi_app).get, "/b%C3%BCcher")
    assert service.checks[0]["path"] == "/b%C3%BCcher"


async def test_a_wsgi_app_is_not_called_for_what_is_refused(
    service: FakeService, wsgi_app: wsgi.RateLimitMiddleware
) -> None:
    service.decide = lambda check: refused("rate_limited", 429, **{"Retry-After": "13"})
    answer = await blocking(ask, wsgi_app, "GET", "/broken")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.headers["Retry-After"] == "13"
    head = await blocking(ask, wsgi_app, "HEAD", "/")
    assert (head.status_code, head.content) == (429, b"")


async def test_what_a_wsgi_app_writes_by_itself_is_counted_too(
    service: FakeService, wsgi_app: wsgi.RateLimitMiddleware
) -> None:
    await blocking(werkzeug.test.Client(wsgi_app).get, "/written", buffered=True)
    await blocking(wsgi_app.protection.close)
    assert [(report["status"], report["bytes"]) for report in service.reports] == [(200, 5)]


@pytest.mark.parametrize("path", ["/broken", "/broken-stream"])
async def test_a_wsgi_apps_error_stays_its_own_and_is_reported_as_500(
    service: FakeService, wsgi_app: wsgi.RateLimitMiddleware, path: str
) -> None:
    with pytest.raises(LookupError, match="mine"):
        await blocking(ask, wsgi_app, "GET", path)
    await blocking(wsgi_app.protection.close)
    assert [report["status"] for report in service.reports] == [500]


async def test_an_exempt_path_of_a_wsgi_app_is_not_asked_about(
    service: FakeService, wsgi_app: wsgi.RateLimitMiddleware
) -> None:
    assert (await blocking(ask, wsgi_app, "GET", "/healthz")).status_code == 200
    assert service.checks == []


async def test_many_threads_share_one_loop_and_each_gets_its_own_answer(
    service: FakeService, wsgi_app: wsgi.RateLimitMiddleware
) -> None:
    service.decide = lambda check: refused("blocked", 403) if check["path"].endswith("7") else allowed()
    answers = await asyncio.gather(*(blocking(ask, wsgi_app, "GET", f"/{number}") for number in range(50)))
    assert [answer.status_code for answer in answers] == [403 if n % 10 == 7 else 200 for n in range(50)]


# --- Flask ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decide", "status", "code"),
    [
        (with_scopes("orders:*"), 200, None),
        (with_scopes("read"), 403, "scope_missing"),
        (lambda check: refused("blocked", 403), 403, "blocked"),
    ],
)
async def test_a_flask_app_is_protected_by_one_line(
    service: FakeService, decide: Any, status: int, code: str | None
) -> None:
    service.decide = decide
    app = Flask(__name__)
    middleware = for_flask.protect(app, **options_of(service))

    @app.delete("/orders/<number>")
    @for_flask.require_scopes("orders:delete")
    def delete(number: str) -> str:
        assert for_flask.current_decision().key is not None
        return number

    answer = await blocking(ask, app, "DELETE", "/orders/1")
    await blocking(middleware.protection.close)
    assert answer.status_code == status
    assert (answer.json()["code"] if code else answer.text) == (code or "1")
    if code == "scope_missing":
        assert [report["status"] for report in service.reports] == [403]


# --- Django -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def django_urls() -> None:
    from django.http import FileResponse, HttpResponse, StreamingHttpResponse
    from django.urls import path

    from apishield.integrations.django import require_scopes

    @require_scopes("orders:delete")
    def synchronous(request: Any) -> Any:
        return HttpResponse(request.apishield.decision_id)

    @require_scopes("orders:delete")
    async def asynchronous(request: Any) -> Any:
        return HttpResponse(request.apishield.decision_id)

    def streaming(request: Any) -> Any:
        def words() -> Iterator[str]:
            yield "hello"
            request.apishield.settle({"tokens": 3})

        return StreamingHttpResponse(words())

    def streamed(request: Any) -> Any:
        return StreamingHttpResponse(iter(["hel", "lö"]))

    async def streamed_async(request: Any) -> Any:
        async def words() -> AsyncIterator[str]:
            yield "hel"
            yield "lö"

        return StreamingHttpResponse(words())

    def broken_stream(request: Any) -> Any:
        return StreamingHttpResponse(part for part in broken())

    def broken() -> Iterator[str]:
        raise LookupError("mine")
        yield ""

    def raising(request: Any) -> Any:
        raise LookupError("mine")

    def file(request: Any) -> Any:
        return FileResponse(io.BytesIO(b"hello!"))

    urls = ModuleType("apishield_test_urls")
    urls.urlpatterns = [  # type: ignore[attr-defined]
        path("sync", synchronous),
        path("async", asynchronous),
        path("stream", streaming),
        path("streamed", streamed),
        path("streamed-async", streamed_async),
        path("broken-stream", broken_stream),
        path("raising", raising),
        path("file", file),
    ]
    sys.modules[urls.__name__] = urls
    settings.configure(
        ROOT_URLCONF=urls.__name__,
        MIDDLEWARE=["apishield.integrations.django.RateLimitMiddleware"],
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="test",
        LOGGING_CONFIG=None,
    )
    django.setup()


async def ask_asgi(app: Any, path: str, method: str = "DELETE") -> httpx2.Response:
    transport = httpx2.ASGITransport(app, client=("198.51.100.7", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://api.test") as client:
        return await client.request(method, path)


@pytest.mark.parametrize("server", ["wsgi", "asgi"])
@pytest.mark.parametrize("view", ["/sync", "/async"])
@pytest.mark.parametrize(
    ("decide", "status", "code"),
    [
        (with_scopes("orders:*"), 200, None),
        (with_scopes("read"), 403, "scope_missing"),
        (lambda check: refused("rate_limited", 429, **{"Retry-After": "13"}), 429, "rate_limited"),
    ],
)
async def test_a_django_project_is_protected_under_both_kinds_of_server(
    service: FakeService, django_urls: None, server: str, view: str, decide: Any, status: int, code: str | None
) -> None:
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import override_settings

    service.decide = decide
    with override_settings(APISHIELD=options_of(service)):
        if server == "asgi":
            answer = await ask_asgi(ASGIHandler(), view)
        else:
            answer = await blocking(lambda: ask(WSGIHandler(), "DELETE", view))
    assert answer.status_code == status
    assert answer.headers["X-APIShield-Decision"].startswith("dec_")
    assert (answer.json()["code"] if code else answer.text[:4]) == (code or "dec_")
    assert service.checks[0]["path"] == view
    assert service.checks[0]["ip"] == "198.51.100.7"


async def test_a_django_view_settles_at_the_end_of_a_stream(service: FakeService, django_urls: None) -> None:
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import override_settings

    with override_settings(APISHIELD=options_of(service, reserve=True)):
        handler = WSGIHandler()
        assert (await blocking(ask, handler, "GET", "/stream")).text == "hello"
    async with asyncio.timeout(10):
        while not any("cost" in report for report in service.reports):
            await asyncio.sleep(0.01)
    assert [report["cost"] for report in service.reports if "cost" in report] == [{"tokens": 3}]


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
@pytest.mark.parametrize("server", ["wsgi", "asgi"])
@pytest.mark.parametrize(
    ("path", "status", "size_bytes"),
    [
        ("/streamed", 200, 6),
        ("/streamed-async", 200, 6),
        ("/broken-stream", 500, 0),
        ("/raising", 500, None),
        ("/file", 200, 6),
    ],
)
async def test_what_django_answers_is_reported_when_it_has_ended(
    service: FakeService,
    django_urls: None,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    path: str,
    status: int,
    size_bytes: int | None,
) -> None:
    monkeypatch.setattr("apishield.integrations.service.FLUSH_SECONDS", 0.01)
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import override_settings

    with override_settings(APISHIELD=options_of(service)), contextlib.suppress(LookupError):
        if server == "asgi":
            await ask_asgi(ASGIHandler(), path, "GET")
        else:
            await blocking(ask, WSGIHandler(), "GET", path)
    async with asyncio.timeout(10):
        while not service.reports:
            await asyncio.sleep(0.01)
    (report,) = service.reports
    assert report["status"] == status
    assert size_bytes is None or report["bytes"] == size_bytes
