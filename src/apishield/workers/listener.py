"""``/metrics`` of a worker that runs apart from the service: one page on a port of its own, nothing else.

Made by hand because it is one page: no framework, no uvicorn beside the worker. Everything has a bound: a head of 8 KiB, 5
seconds, 16 connections. From other machines it needs the operator's token, as the service's own page does.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

import structlog

from apishield.errors import ConfigurationError, ProblemError
from apishield.telemetry import Metrics

log = structlog.get_logger("apishield.worker")

_HEAD_BYTES: Final = 8192
_TIMEOUT_SECONDS: Final = 5.0
_CONNECTIONS: Final = 16

IsOperator = Callable[[str], Awaitable[bool]]
"""Whether a secret is the operator's token. Raises ``ProblemError`` where the database can't be asked."""


class MetricsListener:
    """Serves ``metrics`` on ``host`` and ``port`` from ``start`` to ``close``; of port 0, ``port`` says what was found."""

    def __init__(self, metrics: Metrics, is_operator: IsOperator, *, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._metrics, self._is_operator = metrics, is_operator
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> None:
        """Listens. Raises ``ConfigurationError`` where the port is taken or the address is not this machine's."""
        try:
            self._server = await asyncio.start_server(self._answer, self.host, self.port, limit=_HEAD_BYTES)
        except OSError as error:
            where = f"--metrics-host {self.host} --metrics-port {self.port}"
            raise ConfigurationError(f"{where} can't be listened on ({error.strerror}). Choose another.") from None
        self.port = self._server.sockets[0].getsockname()[1]
        log.info("worker.metrics", url=f"http://{self.host}:{self.port}/metrics")

    async def close(self) -> None:
        """Listens no longer."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _CONNECTIONS:
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._page(head, _peer(writer)))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, or asks no question
        finally:
            self._open -= 1
            writer.close()

    async def _page(self, head: bytes, peer: str) -> bytes:
        line, headers = _parse(head)
        if not line.startswith("GET /metrics ") and not line.startswith("GET /metrics?"):
            return _response(HTTPStatus.NOT_FOUND, b"There is only GET /metrics.\n")
        try:
            may_look = await self._may_look(headers, peer)
        except ProblemError as error:
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, f"{error.detail}\n".encode())
        if not may_look:
            return _response(HTTPStatus.UNAUTHORIZED, b"From other machines the metrics need the operator's token.\n")
        content, media_type = await self._metrics.scrape()
        return _response(HTTPStatus.OK, content, media_type)

    async def _may_look(self, headers: Mapping[str, str], peer: str) -> bool:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secret:
            return await self._is_operator(secret.strip())
        # A name that is not this machine's is a page in a browser that had it point here.
        name = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        return _is_loopback(peer) and _is_loopback(name.strip("[]")) and "x-forwarded-for" not in headers


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    line, *rest = head.decode("latin-1").split("\r\n")
    pairs = (header.partition(":") for header in rest if header)
    return line, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _response(status: HTTPStatus, content: bytes, media_type: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {media_type}\r\nContent-Length: {len(content)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content


def _peer(writer: asyncio.StreamWriter) -> str:
    address = writer.get_extra_info("peername")
    return str(address[0]) if address else ""


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
