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


class Turns:
    """Whose turn it is. What is done in one must not wait for anything, and take a few milliseconds at most."""

    def __init__(self, pause: Pause = asyncio.sleep) -> None:
        self._lock = asyncio.Lock()
        self._pause = pause

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn, which ends with the block; the next one begins after a pause of half its length."""
        async with self._lock:
            began = perf_counter()
            try:
                yield
            finally:
                spent_seconds = perf_counter() - began
            await self._pause(spent_seconds / 2)
