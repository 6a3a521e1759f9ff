"""``/v1/check``, ``/v1/check/batch`` and ``/v1/report``: headers and a body in, an answer out.

The routes answer a request without knowing the server. ``DataPlane`` is an ASGI application around them, and a server that
can do without ASGI's messages (``cli.protocol``) calls ``direct`` itself: a check is then two function calls from parser to
socket, without a task, a scope or an event, of which the second decides all checks of a turn of the event loop.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import perf_counter

import msgspec
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from apishield.api.dataplane.access import Access
from apishield.api.dataplane.answers import Answer, Answered, Question
from apishield.api.dataplane.batches import decide_in_turns
from apishield.api.dataplane.bodies import ClientDisconnectedError, decode, decode_items, read_body, too_large
from apishield.api.dataplane.headers import Asked, Headers, read
from apishield.api.dataplane.heads import Direct, KnownHeads
from apishield.api.dataplane.outbox import Outbox
from apishield.api.gateway.app import ENVOY_PREFIX, NGINX_PATH, Gateways
from apishield.api.middleware.bounds import MAX_BODY_BYTES, check_query
from apishield.api.problems import MEDIA_TYPE, method_not_allowed, problem_document, store_unavailable
from apishield.bootstrap import Runtime
from apishield.core.decided import Decided
from apishield.core.decision import CheckRequest
from apishield.errors import ProblemError, StoreUnavailable
from apishield.later import Later
from apishield.services.asked import Asked as Screened
from apishield.services.engine import CHECKS_AT_ONCE, WORTH_TOGETHER
from apishield.services.reports import MAX_REPORTS, Report
from apishield.services.settlement import no_room
from apishield.services.snapshot import TenantView

log = structlog.get_logger("apishield.dataplane")

MAX_CHECKS = 1000
_MOST_BRACES = 1 + 3 * MAX_CHECKS  # its own, and of each check its own, its costs' and its attributes'
_RELEASE = re.compile(r"/v1/decisions/([0-9a-z_]{1,64})/release")
_JSON = (b"content-type", b"application/json")

DirectRoutes = Mapping[tuple[bytes, bytes], Direct]

_encode = msgspec.json.Encoder().encode
_check_decoder = msgspec.json.Decoder(CheckRequest)


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    checks: list[CheckRequest]


class _RawBatch(msgspec.Struct, forbid_unknown_fields=True):
    checks: list[msgspec.Raw]


class _Reports(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_batch_decoder = msgspec.json.Decoder(_Batch)
_raw_batch_decoder = msgspec.json.Decoder(_RawBatch)
_reports_decoder = msgspec.json.Decoder(_Reports)
_report_decoder = msgspec.json.Decoder(Report)


class DataPlane:
    """Answers the data plane's paths itself and hands everything else to ``control_plane``."""

    def __init__(self, runtime: Runtime, control_plane: ASGIApp) -> None:
        self._control_plane = control_plane
        self._write_down = runtime.events.flush
        self.outbox = Outbox(self._write_down, self.answer_all)
        self.heads = KnownHeads()
        self._engine = runtime.engine
        self._reports = runtime.reports
        self._settlement = runtime.settlement
        self._access = Access(runtime.snapshot, runtime.usage, runtime.clock)
        self._observe = runtime.metrics.observe_check
        self._gateways = Gateways(self._engine, self._access)
        self._routes: dict[tuple[str, str], Direct] = {
            ("POST", "/v1/check"): self._check,
            ("POST", "/v1/check/batch"): self._check_batch,
            ("POST", "/v1/report"): self._report,
            ("GET", NGINX_PATH): self._gateways.nginx,
        }
        self.direct: DirectRoutes = {
            (method.encode(), path.encode()): route for (method, path), route in self._routes.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        route = self._route(scope) if scope["type"] == "http" else None
        if route is None:
            await self._control_plane(scope, receive, send)
            return
        headers: Headers = scope["headers"]
        try:
            if scope["query_string"]:
                check_query(scope["query_string"])
            answered = route(headers, await read_body(receive))
            if isinstance(answered, Question):
                (answered,) = self.answer_all([answered])
            answer = answered if isinstance(answered, Answer) else await answered
        except ClientDisconnectedError:
            return
        except ProblemError as error:
            answer = self.failure(error, read(headers), scope["path"])
        if not self._write_down():  # before anybody is told
            answer = answer.unwritten()
        length = (b"content-length", b"%d" % len(answer.body))
        await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length]})
        await send({"type": "http.response.body", "body": answer.body})

    def _route(self, scope: Scope) -> Direct | None:
        method, path = scope["method"], scope["path"]
        route = self._routes.get((method, path))
        if route is None and path.startswith(ENVOY_PREFIX + "/"):
            original = scope["raw_path"].decode("latin-1").removeprefix(ENVOY_PREFIX)
            return lambda headers, _body: self._gateways.envoy(method, original, headers)
        if route is None and method == "POST" and (found := _RELEASE.fullmatch(path)) is not None:
            return lambda headers, body: self._release(headers, body, found.group(1))
        if route is None and (allowed := self._method_of(path)) is not None:
            return lambda headers, _body: self._misdirected(method, path, allowed, headers)
        return route

    def _method_of(self, path: str) -> str | None:
        """The one method that a path of the data plane answers."""
        if _RELEASE.fullmatch(path) is not None:
            return "POST"
        return next((method for method, known in self._routes if known == path), None)

    def _misdirected(self, method: str, path: str, allowed: str, headers: Headers) -> Answer:
        return self.failure(method_not_allowed(method, path, allowed), read(headers), path)

    # --- POST /v1/check -----------------------------------------------------------------------------------------------

    def _check(self, headers: Headers, body: bytes) -> Answered:
        started = perf_counter()
        asked = read(headers)
        try:
            view = self._remembered(asked, body)
            if view is None:
                return self._later(asked, body, "/v1/check", self._check_of)
            request = decode(_check_decoder, body)
            screened = self._engine.screen(view, request)
        except Exception as error:  # noqa: BLE001  the last net: nothing goes without an answer
            return self.failure(error, asked, "/v1/check")
        if screened is None:
            return self._later(asked, body, "/v1/check", self._check_of)
        return _Check(self, screened, asked, started)

    async def _check_of(self, asked: Asked, view: TenantView, body: bytes) -> Answer:
        started = perf_counter()
        decided = self._engine.check(view, decode(_check_decoder, body))
        return self.told(decided if isinstance(decided, Decided) else await decided, asked, started)

    def told(self, decided: Decided, asked: Asked, started: float) -> Answer:
        """What ``POST /v1/check`` says of a decision, the question about which came at ``started``."""
        request_id = _request_id(asked, decided.decision_id)
        answer = Answer(200, [_JSON, request_id], decided.json().encode())
        self._observe(perf_counter() - started)
        return answer

    def answer_all(self, questions: Sequence[Question]) -> list[Answer | Later[Answer]]:
        """Answers the questions of one turn, in order; a few at a time, so that what each step needs stays in the caches."""
        if len(questions) < WORTH_TOGETHER:
            one_by_one = [self._answer_one(question) for question in questions]
            self._engine.send()
            return one_by_one
        answers: list[Answer | Later[Answer]] = []
        for first in range(0, len(questions), CHECKS_AT_ONCE):
            some = questions[first : first + CHECKS_AT_ONCE]
            try:
                decided = self._engine.decide_all([question.screened for question in some])
            except Exception as error:  # noqa: BLE001  the last net
                answers += [question.failure(error) for question in some]
            else:
                answers += [_answer(question, each) for question, each in zip(some, decided, strict=True)]
        return answers

    def _answer_one(self, question: Question) -> Answer | Later[Answer]:
        try:
            decided = self._engine.decide(question.screened)
        except Exception as error:  # noqa: BLE001  the last net
            return question.failure(error)
        return _answer(question, decided)

    # --- who asks -----------------------------------------------------------------------------------------------------

    def _remembered(self, asked: Asked, body: bytes) -> TenantView | None:
        """The tenant of a header that was seen before; raises for what is wrong with the request whoever asks."""
        if asked.twice:
            raise ProblemError("bad_request", "There are several Authorization headers; send one.")
        if asked.content_type is not None and b"json" not in asked.content_type.lower():
            shown = asked.content_type[:60].decode("latin-1")
            raise ProblemError(
                "unsupported_media_type", f"Content-Type is {shown!a}; send JSON: 'Content-Type: application/json'."
            )
        if len(body) > MAX_BODY_BYTES:
            raise too_large()
        if asked.authorization is None or asked.tenant is not None:
            return None
        return self._access.remembered(asked.authorization)

    async def _later(
        self,
        asked: Asked,
        body: bytes,
        path: str,
        route: Callable[[Asked, TenantView, bytes], Awaitable[Answer]],
    ) -> Answer:
        """Answers where first must be found out who asks, or the answer takes more than one step."""
        try:
            view = self._remembered(asked, body) or await self._access.tenant(asked.authorization, asked.tenant)
            return await route(asked, view, body)
        except Exception as error:  # noqa: BLE001  the last net
            return self.failure(error, asked, path)

    # --- the other routes ---------------------------------------------------------------------------------------------

    def _check_batch(self, headers: Headers, body: bytes) -> Awaitable[Answer]:
        """``POST /v1/check/batch``: results in order; a bad item spoils only itself."""
        return self._later(read(headers), body, "/v1/check/batch", self._check_batch_of)

    async def _check_batch_of(self, asked: Asked, view: TenantView, body: bytes) -> Answer:
        checks = _checks_of(body)
        _bound("checks", len(checks), MAX_CHECKS)
        first_id, results = await decide_in_turns(self._engine, view, checks, _check_decoder)
        body = b'{"results":[%b]}' % ",".join(results).encode()
        return Answer(200, [_JSON, self._request_id(asked, first_id)], body)

    def _report(self, headers: Headers, body: bytes) -> Awaitable[Answer]:
        """``POST /v1/report``: what became of decisions."""
        return self._later(read(headers), body, "/v1/report", self._report_of)

    async def _report_of(self, asked: Asked, view: TenantView, body: bytes) -> Answer:
        events = decode_items(_reports_decoder, body).events
        _bound("events", len(events), MAX_REPORTS)
        reports: list[Report | str] = []
        for raw in events:
            try:
                reports.append(decode(_report_decoder, bytes(raw)))
            except ProblemError as error:
                reports.append(error.detail)
        receipt = await self._reports.take(view.tenant.id, reports)
        otherwise = partial(self.failure, no_room(), asked, "/v1/report")
        return Answer(202, [_JSON, self._request_id(asked, None)], _encode(receipt), otherwise)

    def _release(self, headers: Headers, body: bytes, decision_id: str) -> Awaitable[Answer]:
        """``POST /v1/decisions/{id}/release``: frees slots and gives the whole charge back."""

        async def release(asked: Asked, view: TenantView, _body: bytes) -> Answer:
            released = await self._settlement.release(view.tenant.id, decision_id)
            if released is None:
                raise ProblemError("not_found", "There is no such decision.")
            otherwise = partial(self.failure, no_room(), asked, path)
            return Answer(200, [_JSON, self._request_id(asked, None)], _encode(released), otherwise)

        path = f"/v1/decisions/{decision_id}/release"
        return self._later(read(headers), body, path, release)

    # --- what went wrong ----------------------------------------------------------------------------------------------

    def failure(self, error: Exception, asked: Asked, path: str) -> Answer:
        """A problem; one that was not meant goes to the log, and tells nothing of the inside."""
        if isinstance(error, StoreUnavailable):
            error = store_unavailable(error)
        request_id = self._request_id(asked, None)
        if not isinstance(error, ProblemError):
            shown = request_id[1].decode()
            log.error("request.failed", path=path, request_id=shown, exc_info=error)
            error = ProblemError(
                "internal", f"The request failed on our side. Give request_id {shown} to whoever runs this service."
            )
        return self._problem(error, path, request_id)

    def _problem(self, error: ProblemError, path: str, request_id: tuple[bytes, bytes]) -> Answer:
        document, headers = problem_document(error, path, request_id[1].decode())
        return Answer(
            error.status,
            [
                (b"content-type", MEDIA_TYPE.encode()),
                request_id,
                *((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()),
            ],
            document,
        )

    def _request_id(self, asked: Asked, decision_id: str | None) -> tuple[bytes, bytes]:
        if asked.request_id is None and decision_id is None:
            return b"x-request-id", self._engine.new_request_id().encode()
        return _request_id(asked, decision_id or "")


class _Check(Question):
    """A question of ``POST /v1/check``, which came at ``started``."""

    __slots__ = ("_asked", "_plane", "_started")

    def __init__(self, plane: DataPlane, screened: Screened, asked: Asked, started: float) -> None:
        self.screened = screened
        self._plane, self._asked, self._started = plane, asked, started

    def answer(self, decided: Decided) -> Answer:
        """The decision as JSON."""
        return self._plane.told(decided, self._asked, self._started)

    def failure(self, error: Exception) -> Answer:
        """A problem document."""
        return self._plane.failure(error, self._asked, "/v1/check")


def _answer(question: Question, decided: Decided | Awaitable[Decided]) -> Answer | Later[Answer]:
    if isinstance(decided, Decided):
        try:
            return question.answer(decided)
        except Exception as error:  # noqa: BLE001  the last net
            return question.failure(error)
    return Later.of(decided).then(partial(_answer_later, question))


def _answer_later(question: Question, done: Later[Decided]) -> Answer:
    try:
        return question.answer(done.result())
    except Exception as error:  # noqa: BLE001  the last net
        return question.failure(error)


def _request_id(asked: Asked, decision_id: str) -> tuple[bytes, bytes]:
    """The caller's request id where it is sane, else one that tells which decision it was."""
    return b"x-request-id", asked.request_id or b"req_" + decision_id[4:30].encode()


def _checks_of(body: bytes) -> Sequence[msgspec.Raw | CheckRequest]:
    """The checks of a batch; as they stand there where one of them can't be read, or where there may be too many to read."""
    if body.count(b"{") <= _MOST_BRACES:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _batch_decoder.decode(body).checks
    return decode_items(_raw_batch_decoder, body).checks


def _bound(field: str, count: int, most: int) -> None:
    if count > most:
        raise ProblemError("validation_failed", f"{field} has {count} items; at most {most} are taken at once.")
