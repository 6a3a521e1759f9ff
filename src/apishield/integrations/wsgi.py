"""``RateLimitMiddleware`` for WSGI apps: Flask, Bottle, Pyramid and what else speaks PEP 3333.

The same options and the same answers as ASGI's. The decision lies in ``environ["apishield.decision"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from time import perf_counter
from typing import Any, Unpack

from apishield.core.decision import Decision
from apishield.integrations.answers import Refusal, added_headers, refusal
from apishield.integrations.blocking import BlockingProtection
from apishield.integrations.callers import Incoming
from apishield.integrations.protection import ProtectionOptions, RefusedError

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[..., Callable[[bytes], object]]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]

DECISION_KEY = "apishield.decision"
INCOMING_KEY = "apishield.incoming"


class RateLimitMiddleware:
    """Wraps a WSGI app; for the options see ``ProtectionOptions``, whose functions get the environ."""

    def __init__(self, app: WSGIApp, **options: Unpack[ProtectionOptions]) -> None:
        self.app = app
        self.protection = BlockingProtection(**options)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serves one request."""
        if self.protection.protection.exempts(_text(environ.get("PATH_INFO", ""))):
            return self.app(environ, start_response)
        incoming = self._read(environ)
        decision = self.protection.decide(incoming, environ)
        environ[DECISION_KEY], environ[INCOMING_KEY] = decision, incoming
        if not decision.allowed:
            return _answer(refusal(decision, incoming), environ, start_response)
        exchange = _Exchange(self.protection, decision, start_response)
        try:
            exchange.body = self.app(environ, exchange.start)
        except RefusedError as error:
            exchange.end(error.decision.status)
            return _answer(refusal(error.decision, incoming), environ, start_response)
        except BaseException:
            exchange.end(500)
            raise
        return exchange

    def _read(self, environ: Environ) -> Incoming:
        return self.protection.protection.callers.read(
            environ["REQUEST_METHOD"],
            _text(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")),
            lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}"),
            environ.get("REMOTE_ADDR") or None,
        )


class _Exchange:
    """One response on its way out: the app's body, counted; reported once it is closed."""

    def __init__(self, protection: BlockingProtection, decision: Decision, start_response: StartResponse) -> None:
        self._protection, self._decision, self._start_response = protection, decision, start_response
        self._started = perf_counter()
        self._status = 500
        self._size_bytes = 0
        self._ended = False
        self.body: Iterable[bytes] = ()

    def start(self, status: str, headers: Headers, *exc_info: Any) -> Callable[[bytes], object]:
        """``start_response`` for the app."""
        self._status = int(status[:3])
        headers = [*headers, *added_headers(self._decision, [name.lower() for name, _ in headers])]
        write = self._start_response(status, headers, *exc_info)

        def counted(part: bytes) -> object:
            self._size_bytes += len(part)
            return write(part)

        return counted

    def end(self, status: int | None = None) -> None:
        """Reports, once."""
        if not self._ended:
            self._ended = True
            seconds = perf_counter() - self._started
            self._protection.report(self._decision, status or self._status, seconds, self._size_bytes)

    def __iter__(self) -> Iterator[bytes]:
        try:
            for part in self.body:
                self._size_bytes += len(part)
                yield part
        except Exception:
            # The headers leave with the first part: until then servers make a 500 of it.
            self.end(None if self._size_bytes else 500)
            raise

    def close(self) -> None:
        """Ends the response; servers call it in every case (PEP 3333)."""
        try:
            close = getattr(self.body, "close", None)
            if close is not None:
                close()
        finally:
            self.end()


def _answer(answer: Refusal, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response(status_line(answer.status), answer.headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]


def status_line(status: int) -> str:
    """``429 Too Many Requests``."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Refused"


def _text(path: str) -> str:
    """A path that WSGI hands over as latin-1, in the UTF-8 that it is."""
    return path.encode("latin-1", "replace").decode("utf-8", "replace")
