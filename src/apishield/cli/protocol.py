"""HTTP on a connection: uvicorn's protocol, bounded where it waits and collects without end, with a short cut for checks.

A request's line and headers may have 32 KiB (then 431) and take 15 seconds, its body 30 (then the connection is closed).
What can't be parsed, or is too large, is answered with a problem document like every other error.

Paths that the application lists under ``direct`` (the data plane's) skip ASGI's messages: no scope, task or event is made
for them, and the whole response is one write. That halves what a check costs. A request that the short cut is not made for
(another method, an upgrade, ``Expect``, a reader too slow for its answers) takes the long way, to the same answer.
"""

from __future__ import annotations

import resource
import secrets
import time
from asyncio import BaseTransport, TimerHandle
from collections.abc import Awaitable
from typing import ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from apishield.api.dataplane.answers import Answer, Question
from apishield.api.dataplane.app import DirectRoutes
from apishield.api.dataplane.headers import RequestHeaders
from apishield.api.dataplane.heads import END_OF_HEAD, Direct, KnownHeads
from apishield.api.dataplane.outbox import Outbox
from apishield.api.middleware.bounds import MAX_BODY_BYTES
from apishield.core.ids import new_id
from apishield.errors import PROBLEM_TYPE_BASE, PROBLEMS
from apishield.later import Later

STOP_STREAMS = "apishield.stop_streams"
"""In the state that an application shares with its connections: what ends its streams."""

MAX_HEAD_BYTES = 32 * 1024
HEAD_TIMEOUT_SECONDS = 15.0
BODY_TIMEOUT_SECONDS = 30.0
_SPARE_FILES = 64
MAX_CONNECTIONS = max(_SPARE_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FILES)
"""So that floods of connections leave files for the database, Redis and the log."""
_PER_HEADER_BYTES = 4  # ": " and the line's end


def _write_nothing() -> bool:
    """An application without an outbox of its own has nothing to write down."""
    return True


class HeadTooLargeError(Exception):
    """The request's line and headers are over ``MAX_HEAD_BYTES``; httptools turns it into a parser's error."""


class _NoEvent:
    """Stands for the event that a ``RequestResponseCycle`` waits for; a direct one waits for nothing."""

    def set(self) -> None:
        """Does nothing."""


class DirectCycle:
    """A request that is answered without ASGI. Has what the protocol asks of uvicorn's ``RequestResponseCycle``."""

    __slots__ = (
        "disconnected", "headers", "keep_alive", "more_body", "parts", "protocol", "response_complete", "route", "size",
    )  # fmt: skip

    message_event = _NoEvent()

    def __init__(
        self, protocol: BoundedHttpProtocol, route: Direct, headers: RequestHeaders, *, keep_alive: bool
    ) -> None:
        self.protocol = protocol
        self.route = route
        self.headers = headers
        self.keep_alive = keep_alive
        self.parts: list[bytes] = []
        self.size = 0
        self.disconnected = False
        self.more_body = True
        self.response_complete = False

    def take(self, done: Later[Answer]) -> None:
        """Hands in the answer, which has come."""
        self.protocol.hand_in(self, done.result())

    def deliver(self, answer: Answer) -> None:
        """Puts the answer on the wire."""
        self.protocol.write_answer(self, answer)


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol over httptools, with bounds on the head of a request and direct routes."""

    _head_open = False
    _head_bytes = 0  # an upper bound: it counts the chunks in which the head arrives, whole
    _too_large = False
    _message_open = False
    _timer: TimerHandle | None = None
    _idle_since = 0.0
    _headers_joined: ClassVar[list[tuple[bytes, bytes]] | None] = None
    _head_joined: ClassVar[bytes] = b""

    def connection_made(self, transport: BaseTransport) -> None:
        """Waits for the first head, not for ever."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._direct: DirectRoutes = getattr(self.app, "direct", {})
        self._heads: KnownHeads = getattr(self.app, "heads", None) or KnownHeads()
        self._outbox: Outbox = getattr(self.app, "outbox", None) or Outbox(_write_nothing)
        if len(self.connections) > MAX_CONNECTIONS:
            self.logger.warning("closed a new connection: %d are open, the most that files allow", MAX_CONNECTIONS)
            self.transport.close()
            return
        self._wait(HEAD_TIMEOUT_SECONDS)

    def shutdown(self) -> None:
        """Begins to close: streams, which would never end by themselves, are told to; whatever else is answered first."""
        stop_streams = self.app_state.get(STOP_STREAMS)
        if stop_streams is not None:
            stop_streams()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        self._stop_waiting()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answers a request whose head is known; feeds all others to the parser."""
        between_messages = not self._message_open
        if between_messages and (self.cycle is None or self.cycle.response_complete):
            end = data.find(END_OF_HEAD) + len(END_OF_HEAD)
            known = self._heads.get(data[:end])
            if known is not None and len(data) - end == known.body_bytes and not self.flow.write_paused:
                if self._timer is not None:
                    self._stop_waiting()
                cycle = DirectCycle(self, known.route, known.headers, keep_alive=True)
                self.cycle = cycle  # type: ignore[assignment]
                self._answer(cycle, data[end:])
                return
        before: object = self.cycle
        self._parse(data)
        if between_messages and not self._message_open and self.cycle is not before:
            self._learn(data)

    def _parse(self, data: bytes) -> None:
        """Feeds the parser; a message that is not complete afterwards has a deadline, and its head is counted."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._message_open and not self.transport.is_closing():
            if self._head_open and self._head_bytes > MAX_HEAD_BYTES:
                self._too_large = True
                self.send_400_response("")
            elif self._timer is None:
                self._wait(HEAD_TIMEOUT_SECONDS if self._head_open else BODY_TIMEOUT_SECONDS)

    def _learn(self, data: bytes) -> None:
        """Remembers the head in ``data``, if that was one whole request to a direct route and nothing else.

        The parser passes over blank lines in front of a request: what it made of those with others is never remembered.
        """
        cycle: object = self.cycle
        if type(cycle) is not DirectCycle or not cycle.keep_alive:
            return
        end = data.find(END_OF_HEAD) + len(END_OF_HEAD)
        line = b"%b %b HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
        if data.startswith(line) and len(data) - end == cycle.size:
            self._heads.learn(data[:end], cycle.route, cycle.headers, cycle.size)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_open = self._message_open = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps a header. What comes after the body (trailers) is no header: a proxy in front may not have looked at it."""
        if not self._head_open:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is complete: it is measured only where the chunks it came in could exceed the bound."""
        self._head_open = False
        if self._timer is not None:
            self._stop_waiting()
        if self._head_bytes > MAX_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + _PER_HEADER_BYTES for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                self._too_large = True
                raise HeadTooLargeError
        self._head_bytes = 0
        route = self._direct.get((self.parser.get_method(), self.url))
        if route is None or not self._goes_directly():
            super().on_headers_complete()
            return
        cycle = DirectCycle(self, route, RequestHeaders(self.headers), keep_alive=self.parser.should_keep_alive())
        self.cycle = cycle  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Passes the body on; the chunks it comes in are no part of the next head."""
        self._head_bytes = 0
        cycle: object = self.cycle
        if type(cycle) is not DirectCycle:
            super().on_body(body)
        elif cycle.size <= MAX_BODY_BYTES:  # what comes beyond is dropped: the route refuses the size
            cycle.parts.append(body)
            cycle.size += len(body)

    def on_message_complete(self) -> None:
        """A request is complete: a direct one is answered now, or once what it waits for is there."""
        self._message_open = False
        if self._timer is not None:
            self._stop_waiting()
        cycle: object = self.cycle
        if type(cycle) is not DirectCycle:
            super().on_message_complete()
            return
        if cycle.response_complete:
            return
        self._answer(cycle, cycle.parts[0] if len(cycle.parts) == 1 else b"".join(cycle.parts))

    def _answer(self, cycle: DirectCycle, body: bytes) -> None:
        answer = cycle.route(cycle.headers, body)
        if isinstance(answer, Question):
            self._outbox.ask(cycle, answer)
        elif isinstance(answer, Answer):
            self._outbox.put(cycle, answer)
        elif isinstance(answer, Later):
            answer.then(cycle.take)
        else:
            task = self.loop.create_task(self._answer_later(cycle, answer))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def hand_in(self, cycle: DirectCycle, answer: Answer) -> None:
        """Lets the answer leave at the end of this turn, with all others of it."""
        self._outbox.put(cycle, answer)

    async def _answer_later(self, cycle: DirectCycle, pending: Awaitable[Answer]) -> None:
        self._outbox.put(cycle, await pending)

    def _goes_directly(self) -> bool:
        return (
            self.parser.get_http_version() == "1.1"
            and (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and not self.flow.write_paused
            and not self.parser.should_upgrade()
        )

    def write_answer(self, cycle: DirectCycle, answer: Answer) -> None:
        """Writes the whole response to ``cycle``, unless its client has gone."""
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing():
            return
        parts = [STATUS_LINE[answer.status], self._default_head()]
        for name, value in answer.headers:
            parts += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            parts.append(b"connection: close\r\n")
        parts += (b"content-length: %d\r\n\r\n" % len(answer.body), answer.body)
        self.transport.write(b"".join(parts))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Begins the next request of a pipeline, or to wait for one. A timer looks now and then, and is not set each time."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_after(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """Leaves the timer, which looks when the last answer was."""

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that nothing came on for long enough."""
        self.timeout_keep_alive_task = None
        if self._message_open or not (self.cycle is None or self.cycle.response_complete):
            return  # the answer's end sets it again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_after(left)
        else:
            self._close()

    def _look_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _default_head(self) -> bytes:
        """The headers of every response (its date), joined once for as long as uvicorn keeps the list."""
        headers = self.server_state.default_headers
        if headers is not BoundedHttpProtocol._headers_joined:
            BoundedHttpProtocol._headers_joined = headers
            BoundedHttpProtocol._head_joined = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        return BoundedHttpProtocol._head_joined

    def send_400_response(self, msg: str) -> None:
        """Answers what can't be parsed, and closes."""
        if self.transport.is_closing():
            return
        code, detail = "bad_request", "This is not a valid HTTP request."
        if self._too_large:
            code, detail = "headers_too_large", f"The line and headers of a request may have {MAX_HEAD_BYTES} bytes."
        request_id = new_id("req", time.time_ns() // 1000, secrets.token_bytes)
        problem = PROBLEMS[code]
        body = msgspec.json.encode(
            {
                "type": f"{PROBLEM_TYPE_BASE}{code}.md",
                "title": problem.title,
                "status": problem.status,
                "detail": detail,
                "instance": None,
                "code": code,
                "request_id": request_id,
            }
        )
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", body]))
        self.transport.close()

    def _wait(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
