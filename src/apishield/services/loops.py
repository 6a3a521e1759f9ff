"""The loops of a node: keep the snapshot fresh, write usage behind, say that this node lives.

Each runs until it is cancelled, survives every failure of the database or Redis, and tells of a failure once when it begins
and once when it has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger("apishield.loops")

POLL_SECONDS = 0.3
FLUSH_SECONDS = 1.0
HEARTBEAT_SECONDS = 2.0
SPOOL_SECONDS = 1.0
LEDGER_SECONDS = 0.2
OPERATOR_SECONDS = 0.8
HOUSEKEEPING_SECONDS = 3600.0
RECONCILE_SECONDS = 5.0
METRICS_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 5.0


class Loop:
    """Calls ``step`` every ``interval_seconds``, at once when ``wake`` is called, more slowly while it fails.

    ``failing`` is whether the last call failed.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[None]], interval_seconds: float) -> None:
        self.name = name
        self.failing = False
        self._step = step
        self._interval_seconds = interval_seconds
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins; the first call comes at once."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    def wake(self) -> None:
        """Makes the next call come now."""
        self._woken.set()

    async def stop(self) -> None:
        """Ends the loop, in the middle of a pause or of a call."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        pause_seconds = self._interval_seconds
        while True:
            try:
                await self._step()
            except Exception as error:  # noqa: BLE001  whatever it is, the loop goes on: it is what heals the node
                if not self.failing:
                    log.warning(f"{self.name}.failing", error=f"{type(error).__name__}: {error}"[:500])
                self.failing = True
                pause_seconds = min(_LONGEST_PAUSE_SECONDS, pause_seconds * 2)
            else:
                if self.failing:
                    log.info(f"{self.name}.healed")
                self.failing = False
                pause_seconds = self._interval_seconds
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), pause_seconds)
