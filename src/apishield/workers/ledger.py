"""The worker that keeps the ledger up to date: a loop around ``SpoolDrain.step``.

It comes round five times a second, at once while there is more, and more slowly while the database is away. Told to stop, it
takes what is still there, and ends.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from apishield.core.ports import Clock
from apishield.services.drain import Ledger, SpoolDrain
from apishield.services.loops import Loop
from apishield.stores.spool import Spools

log = structlog.get_logger("apishield.ledger")

INTERVAL_SECONDS = 0.2


class LedgerWorker:
    """Drains the spools below ``spool_root`` into ``ledger``. ``owner`` names this worker in the ledger's claims."""

    def __init__(
        self,
        spool_root: Path,
        ledger: Ledger,
        clock: Clock,
        *,
        owner: str,
        max_bytes: int,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self.drain = SpoolDrain(Spools(spool_root, max_bytes=max_bytes), ledger, clock, owner=owner)
        self.loop = Loop("ledger", self.drain.catch_up, interval_seconds)

    async def step(self) -> bool:
        """One round; whether there is more to take at once."""
        return await self.drain.step()

    async def run(self, stopping: asyncio.Event, *, finish_within_seconds: float) -> None:
        """Drains until ``stopping`` is set, and then what is left, for as long as it is given."""
        self.loop.start()
        try:
            await stopping.wait()
        finally:
            await self.loop.stop()
        await self._finish(finish_within_seconds)

    async def _finish(self, within_seconds: float) -> None:
        try:
            async with asyncio.timeout(within_seconds):
                await self.drain.catch_up()
        except Exception as error:  # noqa: BLE001  what is left waits on the disk for the next start
            log.warning("ledger.not_drained", error=f"{type(error).__name__}: {error}"[:500])
        finally:
            self.drain.close()
