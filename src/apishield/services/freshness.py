"""Lets whoever asks for figures see what this process has answered: waits until the ledger has it, not for long.

Owns: how long is waited. Does not own: who takes events into the ledger (``drain``, ``workers``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from sqlalchemy import select

from apishield.stores.spool.files import spool_name
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.tables import ledger_positions

LONGEST_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.02


class Written(Protocol):
    """The spool of this process."""

    spool: int

    @property
    def position(self) -> int:
        """Up to where it is written."""
        ...

    @property
    def holds_back(self) -> bool:
        """Whether there is something that no reader finds yet."""
        ...

    def flush(self) -> bool:
        """Writes what was noted."""
        ...


class Freshness:
    """Knows up to where the ledger has taken the spool of this process.

    ``drain`` takes it right away, where that is this process' own part; where it is another's, it is waited for; where nobody
    could tell when (Kafka is in between, or workers are somebody else's), ``can_wait`` is false, and it is only looked at.
    """

    def __init__(
        self,
        database: Database,
        written: Written,
        *,
        can_wait: bool,
        drain: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._written = written
        self._can_wait = can_wait
        self._drain = drain
        self._stream = f"spool:{spool_name(written.spool)}"
        self._taken = 0

    async def wait(self, longest_seconds: float = LONGEST_SECONDS) -> bool:
        """Whether the ledger holds all that this process has answered until now; returns after ``longest_seconds`` at most.

        ``False`` also where that can't be told.
        """
        self._written.flush()
        is_whole = (
            not self._written.holds_back
        )  # what there is no room for is taken when there is some: no matter of waiting
        wanted = self._written.position
        if self._taken >= wanted:
            return is_whole
        if self._drain is not None:
            await self._drain()
            self._taken = wanted
            return is_whole
        ends = asyncio.get_running_loop().time() + (longest_seconds if self._can_wait else 0)
        while True:
            self._taken = max(self._taken, await self._look())
            if self._taken >= wanted:
                return is_whole
            if asyncio.get_running_loop().time() >= ends:
                return False
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _look(self) -> int:
        async with self._database.read() as tx:
            statement = select(ledger_positions.c.position).where(ledger_positions.c.stream == self._stream)
            return int(await tx.connection.scalar(statement) or 0)
