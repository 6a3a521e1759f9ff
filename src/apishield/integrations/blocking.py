"""``Protection`` for servers that block: one thread runs the event loop in which decisions are asked for.

So WSGI and Django share every line of what ASGI does: batches, breaker, reports. A decision costs the request's thread a
hand-over (about 0.1 ms). The thread belongs to its process: it is started by the first request, hence after a server has
forked its workers.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, Unpack

from apishield.client.models import Report
from apishield.core.decision import Decision
from apishield.integrations.callers import Incoming
from apishield.integrations.protection import Protection, ProtectionOptions

T = TypeVar("T")
CLOSE_TIMEOUT_SECONDS = 3.0


class BlockingProtection:
    """The protection of one app, for its threads."""

    def __init__(self, **options: Unpack[ProtectionOptions]) -> None:
        self.protection = Protection(**options)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process_id = 0

    def decide(self, incoming: Incoming, request: object) -> Decision:
        """The decision about a request; blocks until it is there."""
        return self._run(_awaited(self.protection.decide(incoming, request)))

    def report(self, decision: Decision, status: int, latency_seconds: float, size_bytes: int) -> None:
        """Takes note of the response to an allowed request; returns at once."""
        self.protection.report(decision, status, latency_seconds, size_bytes, self._tell)

    def close(self) -> None:
        """Sends what is queued and ends the thread. Called by itself when the process exits."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None or self._process_id != os.getpid():
            return
        closing = asyncio.run_coroutine_threadsafe(self.protection.guard.close(), loop)
        try:
            closing.result(CLOSE_TIMEOUT_SECONDS)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            atexit.unregister(self.close)

    def _tell(self, report: Report) -> None:
        self._call(lambda: self.protection.guard.report(report))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._running_loop()).result()

    def _call(self, work: Callable[[], None]) -> None:
        self._running_loop().call_soon_threadsafe(work)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        if loop is None or self._process_id != os.getpid():
            with self._lock:
                if self._loop is None or self._process_id != os.getpid():
                    self._loop = self._started()
                loop = self._loop
        return loop

    def _started(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=_serve, args=(loop,), name="apishield", daemon=True).start()
        self._process_id = os.getpid()
        atexit.register(self.close)
        return loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
