"""Turns at work that keeps a process busy, on the loop that decides checks as well: one at a time, each short.

However many readers there are, a check waits for one turn of one of them, and a third of the time nobody works. Turns go
round: who had one is behind all who wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter

Pause = Callable[[float], Awaitable[object]]


def pause_of(owed_seconds: float) -> float:
    """How long to pause now of what is owed: whole milliseconds, to which loops round up whatever they sleep for.

    What is left is owed still. Thousands of tiny turns would mostly sleep, and pauses of 1.1 ms take 2 ms.
    """
    return int(owed_seconds * 1000) / 1000


class Turns:
    """Whose turn it is. What is done in one must not wait for anything, and take a few milliseconds at most."""

    def __init__(self, pause: Pause = asyncio.sleep) -> None:
        self._lock = asyncio.Lock()
        self._pause = pause
        self._owed_seconds = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn, which ends with the block. Pauses are half as long as the turns before them, in whole milliseconds."""
        async with self._lock:
            began = perf_counter()
            try:
                yield
            finally:
                self._owed_seconds += (perf_counter() - began) / 2
            pause_seconds = pause_of(self._owed_seconds)
            self._owed_seconds -= pause_seconds
            await self._pause(pause_seconds)  # of 0: whoever else is ready on the loop goes first
