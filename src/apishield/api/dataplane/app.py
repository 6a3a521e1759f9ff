"""``/v1/check``, ``/v1/check/batch`` and ``/v1/report`` as one ASGI callable in front of the control plane."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from time import perf_counter

import msgspec
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from apishield.api.dataplane.access import Access
from apishield.api.dataplane.bodies import ClientDisconnectedError, decode, read_body
from apishield.api.middleware.bounds import check_query
from apishield.api.problems import REQUEST_ID, problem_response
from apishield.bootstrap import Runtime
from apishield.core.decision import CheckRequest, Decision
from apishield.errors import ProblemError
from apishield.services.reports import MAX_REPORTS, Report
from apishield.services.snapshot import TenantView

log = structlog.get_logger("apishield.dataplane")

MAX_CHECKS = 1000
_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,128}")
_JSON = (b"content-type", b"application/json")

_encode = msgspec.json.Encoder().encode
_check_decoder = msgspec.json.Decoder(CheckRequest)


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    checks: list[msgspec.Raw]


class _Reports(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_batch_decoder = msgspec.json.Decoder(_Batch)
_reports_decoder = msgspec.json.Decoder(_Reports)
_report_decoder = msgspec.json.Decoder(Report)


class _Asked:
    """What the headers of a request say, read in one pass."""

    __slots__ = ("authorization", "content_type", "request_id", "tenant")

    def __init__(self, scope: Scope) -> None:
        self.authorization: bytes | None = None
        self.tenant: bytes | None = None
        self.content_type: bytes | None = None
        self.request_id: bytes | None = None
        for name, value in scope["headers"]:  # their size was bounded by the server, before they were a scope
            if name == b"authorization":
                if self.authorization is not None:
                    raise ProblemError("bad_request", "There are several Authorization headers; send one.")
                self.authorization = value
            elif name == b"content-type":
                self.content_type = value
            elif name == b"x-request-id":
                self.request_id = value
            elif name == b"x-apishield-tenant":
                self.tenant = value


class DataPlane:
    """Answers the data plane's paths itself and hands everything else to ``control_plane``."""

    def __init__(self, runtime: Runtime, control_plane: ASGIApp) -> None:
        self._control_plane = control_plane
        self._engine = runtime.engine
        self._reports = runtime.reports
        self._access = Access(runtime.snapshot, runtime.clock)
        self._observe = runtime.metrics.observe_check
        self._routes: dict[str, Callable[[TenantView, bytes], Awaitable[tuple[int, bytes, str | None]]]] = {
            "/v1/check/batch": self._check_batch,
            "/v1/report": self._report,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            if path == "/v1/check":
                await self._check(scope, receive, send)
                return
            route = self._routes.get(path)
            if route is not None:
                await self._serve(route, scope, receive, send)
                return
        await self._control_plane(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/check``: as ``_serve``, written out so that the hottest path makes no second call."""
        started = perf_counter()
        try:
            asked = _Asked(scope)
            if scope["query_string"]:
                check_query(scope["query_string"])
            body = await read_body(receive)
            view = await self._tenant(asked)
            decision = self._engine.check(view, decode(_check_decoder, body))
            if not isinstance(decision, Decision):
                decision = await decision
        except Exception as error:  # noqa: BLE001  the last net: nothing gets out without an answer
            await self._fail(error, scope, receive, send)
            return
        answer = _encode(decision)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    _JSON,
                    (b"content-length", b"%d" % len(answer)),
                    (b"x-request-id", _request_id(asked, decision.decision_id)),
                ],
            }
        )
        await send({"type": "http.response.body", "body": answer})
        self._observe(perf_counter() - started)

    async def _serve(
        self,
        route: Callable[[TenantView, bytes], Awaitable[tuple[int, bytes, str | None]]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        try:
            asked = _Asked(scope)
            if scope["query_string"]:
                check_query(scope["query_string"])
            body = await read_body(receive)
            view = await self._tenant(asked)
            status, answer, name = await route(view, body)
        except Exception as error:  # noqa: BLE001  the last net
            await self._fail(error, scope, receive, send)
            return
        headers = [_JSON, (b"content-length", b"%d" % len(answer)), (b"x-request-id", _request_id(asked, name))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _tenant(self, asked: _Asked) -> TenantView:
        if asked.content_type is not None and b"json" not in asked.content_type.lower():
            shown = asked.content_type[:60].decode("latin-1")
            raise ProblemError(
                "unsupported_media_type", f"Content-Type is {shown!a}; send JSON: 'Content-Type: application/json'."
            )
        if asked.authorization is not None and asked.tenant is None:
            view = self._access.remembered(asked.authorization)
            if view is not None:
                return view
        return await self._access.tenant(asked.authorization, asked.tenant)

    # --- the other routes ---------------------------------------------------------------------------------------------

    async def _check_batch(self, view: TenantView, body: bytes) -> tuple[int, bytes, str | None]:
        """``POST /v1/check/batch``: results in order; a bad item spoils only itself."""
        checks = decode(_batch_decoder, body).checks
        _bound("checks", len(checks), MAX_CHECKS)
        results = [self._check_item(view, raw) for raw in checks]
        decisions = await _together(results)
        first = decisions[0].decision_id if decisions else None
        return 200, b'{"results":' + _encode(decisions) + b"}", first

    def _check_item(self, view: TenantView, raw: msgspec.Raw) -> Decision | Awaitable[Decision]:
        try:
            request = decode(_check_decoder, bytes(raw))
        except ProblemError as error:
            return self._engine.refuse(view, "bad_request", error.detail)
        return self._engine.check(view, request)

    async def _report(self, view: TenantView, body: bytes) -> tuple[int, bytes, str | None]:
        """``POST /v1/report``: what became of decisions."""
        events = decode(_reports_decoder, body).events
        _bound("events", len(events), MAX_REPORTS)
        reports: list[Report | str] = []
        for raw in events:
            try:
                reports.append(decode(_report_decoder, bytes(raw)))
            except ProblemError as error:
                reports.append(error.detail)
        return 202, _encode(self._reports.take(view.tenant.id, reports)), None

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with a problem; one that was not meant goes to the log, and tells nothing of the inside."""
        if isinstance(error, ClientDisconnectedError | asyncio.CancelledError):
            return
        scope[REQUEST_ID] = request_id = _given_request_id(scope) or self._engine.new_request_id()
        if not isinstance(error, ProblemError):
            log.error("request.failed", path=scope["path"], request_id=request_id, exc_info=error)
            error = ProblemError(
                "internal",
                f"The request failed on our side. Give request_id {request_id} to whoever runs this service.",
            )
        response = problem_response(scope, error)
        response.headers["X-Request-Id"] = request_id
        await response(scope, receive, send)


async def _together(results: list[Decision | Awaitable[Decision]]) -> list[Decision]:
    """All decisions, in order. Pending ones wait side by side, so that one store call can decide many of them."""
    pending = [asyncio.ensure_future(each) for each in results if not isinstance(each, Decision)]
    if pending:
        await asyncio.gather(*pending)
    decided = iter(pending)
    return [each if isinstance(each, Decision) else next(decided).result() for each in results]


def _request_id(asked: _Asked, decision_id: str | None) -> bytes:
    """The caller's request id where it is sane, else one that tells which decision it was."""
    given = asked.request_id
    if given is not None and _SANE_REQUEST_ID.fullmatch(given) is not None:
        return given
    return b"req_" + decision_id[4:30].encode() if decision_id is not None else b"req_none"


def _given_request_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_REQUEST_ID.fullmatch(value) is not None:
            return str(value, "ascii")
    return None


def _bound(field: str, count: int, most: int) -> None:
    if count > most:
        raise ProblemError("validation_failed", f"{field} has {count} items; at most {most} are taken at once.")
