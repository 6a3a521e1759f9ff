"""``RateLimitMiddleware``: rate limits, API keys and blocks for any ASGI app.

::

    app.add_middleware(RateLimitMiddleware, apishield_url="http://localhost:8000", api_key="sk_live_...")
    app.add_middleware(RateLimitMiddleware, limit="100/minute")  # without a service

Every HTTP request and every websocket handshake is checked once, before the app sees it; the messages of an open websocket
are not. The decision lies in ``scope["state"]["apishield"]`` (``request.state.apishield``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import perf_counter
from typing import Any, Unpack

from apishield.core.decision import Decision
from apishield.integrations.answers import CLIENT_CLOSED_REQUEST, added_headers, refusal
from apishield.integrations.callers import Incoming
from apishield.integrations.protection import Protection, ProtectionOptions, RefusedError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

STATE_KEY = "apishield"
POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class RateLimitMiddleware:
    """Lets through what the service, or a limit of its own, allows; answers the rest with 401, 403, 429 or 503.

    By the service: ``apishield_url``, ``api_key``, ``require_key``, ``timeout_seconds``, ``report``, ``reserve``, ``scopes``.
    Without one: ``limit``, ``per``, ``store``, ``namespace``.
    Both: ``on_error``, ``cost``, ``key_header``, ``bearer_prefixes``, ``trusted_proxies``, ``forwarded_header``, ``exempt``.
    ``ProtectionOptions`` says what each means.

    Raises ``ConfigurationError`` for options that don't fit together. For asyncio servers.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[ProtectionOptions]) -> None:
        self.app = app
        self.protection = Protection(**options)
        self._header_names = {name.encode("latin-1"): name for name in self.protection.callers.header_names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection (ASGI 3)."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
        elif kind not in {"http", "websocket"} or self.protection.exempts(_route_path(scope)):
            await self.app(scope, receive, send)
        else:
            await self._protect(scope, receive, send)

    async def _protect(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming = self._read(scope)
        decision = await self.protection.decide(incoming, scope)
        scope.setdefault("state", {})[STATE_KEY] = decision
        if not decision.allowed:
            await _refuse(decision, incoming, scope, receive, send)
            return
        exchange = _Exchange(decision, send)
        try:
            await self.app(scope, receive, exchange.send)
        except RefusedError as error:
            if exchange.status is not None:
                raise
            exchange.status = error.decision.status
            await _refuse(error.decision, incoming, scope, receive, send)
        except asyncio.CancelledError:
            exchange.status = exchange.status or CLIENT_CLOSED_REQUEST
            raise
        finally:
            # An app that ended without a response makes the server answer 500.
            self.protection.report(decision, exchange.status or 500, exchange.seconds(), exchange.size_bytes)

    def _read(self, scope: Scope) -> Incoming:
        found: dict[str, str] = {}
        names = self._header_names
        for raw_name, value in scope["headers"]:
            name = names.get(raw_name)
            if name is not None:
                text = value.decode("latin-1")
                found[name] = f"{found[name]},{text}" if name in found else text
        client = scope.get("client")
        return self.protection.callers.read(
            scope.get("method", "GET"), scope["path"], found.get, client[0] if client else None
        )

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the lifespan on; sends the last reports once the app has shut down."""

        async def send_after_closing(message: Message) -> None:
            if message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
                await self.protection.guard.close()
            await send(message)

        await self.app(scope, receive, send_after_closing)


class _Exchange:
    """One response on its way out: adds the decision's headers, and keeps what is to be reported."""

    __slots__ = ("_decision", "_ended", "_headers", "_send", "_started", "size_bytes", "status")

    def __init__(self, decision: Decision, send: Send) -> None:
        self._decision, self._send = decision, send
        self._started = perf_counter()
        self._ended: float | None = None
        self._headers: Iterable[tuple[bytes, bytes]] = ()
        self.status: int | None = None
        self.size_bytes = 0

    def seconds(self) -> float:
        """From the decision to the end of the response."""
        return (self._ended or perf_counter()) - self._started

    async def send(self, message: Message) -> None:
        """Passes a message on."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
                self._headers = message.get("headers") or ()
                message = {**message, "headers": self._with_ours(message)}
            case "http.response.body" | "websocket.http.response.body":
                self.size_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    self._ended = perf_counter()
            case "http.response.pathsend":  # the server sends a file by itself
                self.size_bytes = _content_length(self._headers)
                self._ended = perf_counter()
            case "websocket.accept":
                self.status = 101
                self._ended = perf_counter()  # the handshake is what was checked, not the conversation
                message = {**message, "headers": self._with_ours(message)}
            case "websocket.close" if self.status is None:
                self.status = 403
                self._ended = perf_counter()
            case _:
                pass
        await self._send(message)

    def _with_ours(self, message: Message) -> list[tuple[bytes, bytes]]:
        headers = list(message.get("headers") or ())
        present = [name.decode("latin-1").lower() for name, _ in headers]
        return headers + _encoded(added_headers(self._decision, present))


async def _refuse(decision: Decision, incoming: Incoming, scope: Scope, receive: Receive, send: Send) -> None:
    status, headers, body = refusal(decision, incoming)
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await receive()  # the handshake, which has to be taken before it may be refused
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": decision.code})
            return
        prefix = "websocket."
    await send({"type": f"{prefix}http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": f"{prefix}http.response.body", "body": body})


def _content_length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    given = next((value for name, value in headers if name.lower() == b"content-length"), b"")
    return int(given) if given.isdigit() else 0


def _encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]


def _route_path(scope: Scope) -> str:
    """The path as the app below routes it: without the part that it is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
