"""Sends requests at fixed instants and measures from those instants, so that a stall counts for all who had to wait.

python -m benchmarks.open_loop URL HEADERS BODY PER_SECOND SECONDS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import uvloop

CONNECTIONS = 64
GRACE_SECONDS = 2.0
_LENGTH = b"content-length: "


class Connection(asyncio.Protocol):
    """One request at a time; gives itself back to ``idle`` when it is answered."""

    def __init__(self, idle: deque[Connection], latencies: list[float], failed: list[int]) -> None:
        self._idle = idle
        self._latencies = latencies
        self._failed = failed
        self._buffer = b""
        self.due = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Is ready (called by the event loop)."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the base class
        self._idle.append(self)

    def send(self, request: bytes, due: float) -> None:
        """Sends a request that was due at ``due``."""
        self.due = due
        assert self.transport is not None
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Waits for the whole answer (called by the event loop)."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        at = lower.index(_LENGTH) + len(_LENGTH)
        if len(body) < int(lower[at:].split(b"\r\n", 1)[0]):
            return
        self._latencies.append(time.perf_counter() - self.due)
        if not head.startswith(b"HTTP/1.1 2"):
            self._failed.append(1)
        self._buffer = b""
        self._idle.append(self)


async def run(url: str, headers: dict[str, str], body: str, per_second: float, seconds: float) -> dict[str, float]:
    """Keeps to the schedule, and says how long answers took."""
    parts = urlsplit(url)
    payload = body.encode()
    lines = [f"{'POST' if payload else 'GET'} {parts.path or '/'} HTTP/1.1", f"Host: {parts.netloc}"]
    if payload:
        lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join([*lines, "", ""]).encode() + payload
    idle: deque[Connection] = deque()
    latencies: list[float] = []
    failed: list[int] = []
    loop = asyncio.get_running_loop()
    assert parts.hostname is not None
    assert parts.port is not None
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Connection(idle, latencies, failed), parts.hostname, parts.port)
    count = int(per_second * seconds)
    start = time.perf_counter() + 0.05
    sent = 0
    while sent < count:
        now = time.perf_counter()
        while sent < count and start + sent / per_second <= now and idle:
            idle.popleft().send(request, start + sent / per_second)
            sent += 1
        wait = start + sent / per_second - time.perf_counter()
        await asyncio.sleep(wait if wait > 0.001 else 0)  # the last millisecond is polled: timers are too coarse
        if now > start + seconds + GRACE_SECONDS:
            break
    deadline = time.perf_counter() + GRACE_SECONDS
    while len(latencies) < sent and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    elapsed = time.perf_counter() - start
    latencies.sort()
    return {
        "requests": len(latencies),
        "per_second": len(latencies) / elapsed,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
        "failed": len(failed) + count - len(latencies),
    }


if __name__ == "__main__":
    _, to_url, with_headers, with_body, rate, duration = sys.argv
    print(json.dumps(uvloop.run(run(to_url, json.loads(with_headers), with_body, float(rate), float(duration)))))
