"""HTTP on a connection: uvicorn's protocol, bounded where it waits and collects without end.

A request's line and headers may have 32 KiB (then 431) and take 15 seconds (then the connection is closed). What can't
be parsed, or is too large, is answered with a problem document like every other error.
"""

from __future__ import annotations

import secrets
import time
from asyncio import BaseTransport, TimerHandle

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from apishield.core.ids import new_id
from apishield.errors import PROBLEM_TYPE_BASE, PROBLEMS

MAX_HEAD_BYTES = 32 * 1024
HEAD_TIMEOUT_SECONDS = 15.0
_PER_HEADER_BYTES = 4  # ": " and the line's end


class HeadTooLargeError(Exception):
    """The request's line and headers are over ``MAX_HEAD_BYTES``; httptools turns it into a parser's error."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol over httptools, with bounds on the head of a request."""

    _head_open = False
    _head_bytes = 0  # an upper bound: it counts the chunks in which the head arrives, whole
    _too_large = False
    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Waits for the first head, not for ever."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; a head that is not complete afterwards is counted and has a deadline."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_open and not self.transport.is_closing():
            if self._head_bytes > MAX_HEAD_BYTES:
                self._too_large = True
                self.send_400_response("")
            elif self._head_timer is None:
                self._wait_for_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_open = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is complete: it is measured only where the chunks it came in could exceed the bound."""
        self._head_open = False
        if self._head_timer is not None:
            self._stop_waiting()
        if self._head_bytes > MAX_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + _PER_HEADER_BYTES for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                self._too_large = True
                raise HeadTooLargeError
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Passes the body on; the chunks it comes in are no part of the next head."""
        self._head_bytes = 0
        super().on_body(body)

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

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
