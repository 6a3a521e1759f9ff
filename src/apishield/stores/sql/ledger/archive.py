"""Reads decisions back: one by its place, or all of a period, in the order of time.

Owns: which chunks can hold a decision. Does not own: what they hold (``stored``), how a period is walked (``scan``), how chunks
are written (``chunks``), who may ask (``services``). Every statement but one names the tenant; ``find_public`` asks of each
tenant it finds whether the id is that tenant's, before it opens anything.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.events import CountEvent, Event, EventRef
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.chunks import BLOCK, HOUR_US
from apishield.stores.sql.ledger.scan import Order, Scan
from apishield.stores.sql.ledger.statements import select_rows
from apishield.stores.sql.ledger.stored import Found, StoredDecision, overlapping, payloads, start_of_block
from apishield.stores.sql.ledger.turns import Turns

_DAY_US: Final = 24 * HOUR_US
_MOST_OPENED: Final = 1_000  # for one decision


class DecisionArchive:
    """The decisions of the last ``replay_days``. All who read a process's share its ``turns``, so there is one a process."""

    def __init__(self, database: Database, *, replay_days: int = 7, turns: Turns | None = None) -> None:
        self.turns = turns or Turns()
        self._database = database
        self._kept_us = replay_days * _DAY_US

    @property
    def kept_from_us(self) -> int:
        """When the oldest decision may have been made that can still be found."""
        return self._database.clock() - self._kept_us + 1

    async def find(self, tenant_id: str, ref: EventRef, at_us: int) -> StoredDecision | None:
        """The tenant's decision at ``ref``, made at ``at_us``; ``None`` where it isn't kept, not yet, or not any more."""
        if self._is_gone(at_us):
            return None
        return await self._find(tenant_id, ref)

    async def find_public(self, ref: EventRef, at_us: int, is_tenant: Callable[[str], bool]) -> StoredDecision | None:
        """The decision at ``ref`` of the tenant for which ``is_tenant`` holds: whose key has made the id's MAC."""
        if self._is_gone(at_us):
            return None
        statement = (
            "SELECT DISTINCT tenant_id FROM decision_chunks "
            "WHERE spool = ? AND kind = 'decision' AND first_sequence BETWEEN ? AND ? AND last_sequence >= ?"
        )
        place = (ref.spool, start_of_block(ref.sequence), ref.sequence, ref.sequence)
        async with self._database.read() as work:
            tenants = await select_rows(work.connection, statement, place)
        for (tenant_id,) in tenants:
            if is_tenant(tenant_id):
                return await self._find(tenant_id, ref)
        return None

    def scan(
        self, tenant_id: str, from_us: int, to_us: int, *, newest_first: bool = False, results: bool = True
    ) -> AsyncGenerator[list[StoredDecision], None]:
        """The tenant's decisions from ``from_us`` to before ``to_us``, in the order of time, 1,024 at once at most.

        Without ``results`` they come with their settlements only, which is quicker. Holds as many chunks as overlap in time,
        however long the period is, and no transaction between two lists.
        """
        from_us = max(from_us, self.kept_from_us)
        order = Order(newest_first)
        return Scan(self._database, self.turns, tenant_id, from_us, to_us, order, results=results).lists()

    async def _find(self, tenant_id: str, ref: EventRef) -> StoredDecision | None:
        known = Found()
        async with self._database.read() as work:  # let go of before the first turn, which others may have
            ids = await _holding(work.connection, tenant_id, ref.spool, [ref.sequence])
            chunks = await payloads(work.connection, tenant_id, ids[:_MOST_OPENED])
        for chunk in chunks:
            async with self.turns.turn():
                known.add(ref.spool, (event for event in chunk.events() if _sequence(event) == ref.sequence))
        event = known.decisions.get((ref.spool, ref.sequence))
        return None if event is None else known.stored(ref.spool, event)

    def _is_gone(self, at_us: int) -> bool:
        return at_us < self.kept_from_us


async def look_up(
    connection: AsyncConnection, wanted: Mapping[tuple[str, int], set[int]], *, at_most: int
) -> dict[tuple[str, int], Found]:
    """What is known of decisions (by tenant and spool: their sequences), as far as ``at_most`` chunks tell."""
    found: dict[tuple[str, int], Found] = {}
    for (tenant_id, spool), sequences in wanted.items():
        known = found[tenant_id, spool] = Found()
        blocks: dict[int, list[int]] = {}
        for sequence in sorted(sequences):
            blocks.setdefault(sequence // BLOCK, []).append(sequence)
        for numbers in blocks.values():
            ids = (await _holding(connection, tenant_id, spool, numbers))[:at_most]
            at_most -= len(ids)
            for chunk in await payloads(connection, tenant_id, ids):
                known.add(spool, chunk.events())
                await asyncio.sleep(0)  # checks may be decided on the same loop: none waits for more than a chunk
    return found


async def _holding(connection: AsyncConnection, tenant_id: str, spool: int, numbers: list[int]) -> list[int]:
    """The numbers of the chunks that can hold any of these sequences, which lie in one block and are in order."""
    ids: list[int] = []
    for kind in ("decision", "result"):
        rows = await overlapping(connection, tenant_id, kind, spool, numbers[0], numbers[-1])
        ids += [row.id for row in rows if _holds_any(row.first_sequence, row.last_sequence, numbers)]
    return ids


def _sequence(event: Event) -> int | None:
    return None if isinstance(event, CountEvent) else event.sequence


def _holds_any(first: int, last: int, numbers: list[int]) -> bool:
    place = bisect_left(numbers, first)
    return place < len(numbers) and numbers[place] <= last
