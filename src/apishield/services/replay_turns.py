"""Turns at replaying: a few tenants' jobs go on side by side, a slice of each in turn; a tenant's own go one after the other.

So a short replay is done soon, however long another tenant's takes. Few go on at once, since each holds what it counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

SIDE_BY_SIDE: Final = 8

Pace = Callable[[float], Awaitable[object]]


class ReplayTurns:
    """Who works now. ``pace`` is the pause between two slices."""

    def __init__(self, pace: Pace = asyncio.sleep) -> None:
        self._pace = pace
        self._side_by_side = asyncio.Semaphore(SIDE_BY_SIDE)
        self._slice = asyncio.Lock()  # it is fair: who gave way is behind all who wait
        self._tenants: dict[str, tuple[asyncio.Lock, int]] = {}  # and how many of its jobs there are

    @asynccontextmanager
    async def job(self, tenant_id: str) -> AsyncIterator[Pace]:
        """Waits for the first slice of a job; what it gives ends a slice, pauses, and waits for the next one."""
        lock, jobs = self._tenants.get(tenant_id, (asyncio.Lock(), 0))
        self._tenants[tenant_id] = lock, jobs + 1
        try:
            async with lock, self._side_by_side:
                turn = _Turn(self._slice, self._pace)
                try:
                    await turn.begin()
                    yield turn.give_way
                finally:
                    turn.end()
        finally:
            jobs = self._tenants[tenant_id][1] - 1
            if jobs:
                self._tenants[tenant_id] = lock, jobs
            else:
                del self._tenants[tenant_id]


class _Turn:
    """One job's hold of the lock, which it may have lost when it is cancelled."""

    def __init__(self, lock: asyncio.Lock, pace: Pace) -> None:
        self._lock = lock
        self._pace = pace
        self._holds = False

    async def begin(self) -> None:
        await self._lock.acquire()
        self._holds = True

    def end(self) -> None:
        if self._holds:
            self._holds = False
            self._lock.release()

    async def give_way(self, seconds: float) -> None:
        self.end()
        await self._pace(seconds)
        await self.begin()
