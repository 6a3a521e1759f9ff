"""Which decisions have their result: one bit each, so that a result counts once however often it is told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.events import ResultEvent
from apishield.stores.sql.ledger.statements import delete_some, run_many
from apishield.stores.sql.ledger.tables import ledger_results

BLOCK: Final = 4096
"""How many decisions' bits lie in a row."""


class Contended(Exception):  # noqa: N818  an event between two workers, not a fault
    """Another worker wrote the same rows at the same moment. Nothing was written; look again."""


class TakenBits:
    """The bits of some decisions, as they were read, and those that are to be set."""

    def __init__(self) -> None:
        self._read: dict[tuple[int, int], bytes] = {}
        self._bits: dict[tuple[int, int], bytearray] = {}
        self._changed: dict[tuple[int, int], int] = {}  # and when the newest of its decisions was made

    async def load(self, connection: AsyncConnection, results: Iterable[ResultEvent], *, lock: bool = False) -> None:
        """Reads the bits of what ``results`` are about; with ``lock`` nobody else sets them until the transaction ends."""
        blocks: defaultdict[int, set[int]] = defaultdict(set)
        for result in results:
            blocks[result.spool].add(result.sequence // BLOCK)
        table = ledger_results.c
        for spool in sorted(blocks):
            statement = (
                select(table.block, table.bits)
                .where(table.spool == spool, table.block.in_(sorted(blocks[spool])))
                .order_by(table.block)
            )
            if lock:
                statement = statement.with_for_update()  # SQLite has one writer and leaves this away
            for block, bits in await connection.execute(statement):
                self._read[spool, block] = bits
                self._bits[spool, block] = bytearray(bits)

    def take(self, result: ResultEvent) -> bool:
        """Sets the bit of the result's decision. ``False`` where it was set: this result was counted before."""
        place = (result.spool, result.sequence // BLOCK)
        bits = self._bits.get(place)
        if bits is None:
            bits = self._bits[place] = bytearray(BLOCK // 8)
        byte, bit = result.sequence % BLOCK >> 3, 1 << (result.sequence & 7)
        if bits[byte] & bit:
            return False
        bits[byte] |= bit
        self._changed[place] = max(self._changed.get(place, 0), result.decided_at_ms * 1000)
        return True

    async def write(self, connection: AsyncConnection) -> None:
        """Writes what was set. Raises ``Contended`` where a row is not as it was read."""
        changed = sorted(self._changed.items())
        known = [
            (bytes(self._bits[place]), at_us, *place, self._read[place])
            for place, at_us in changed
            if place in self._read
        ]
        new = [(*place, bytes(self._bits[place]), at_us) for place, at_us in changed if place not in self._read]
        greatest = "max" if connection.dialect.name == "sqlite" else "greatest"
        update = (
            f"UPDATE ledger_results SET bits = ?, at_us = {greatest}(at_us, ?) "  # noqa: S608  two words of ours
            "WHERE spool = ? AND block = ? AND bits = ?"
        )
        insert = "INSERT INTO ledger_results (spool, block, bits, at_us) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        for statement, rows in ((update, known), (insert, new)):
            if await run_many(connection, statement, rows) != len(rows):
                raise Contended


async def forget_results(connection: AsyncConnection, *, before_us: int, at_most: int) -> int:
    """Forgets bits of decisions that were made before; results that old are refused. Returns how many rows it was."""
    return await delete_some(connection, "ledger_results", ("spool", "block"), "at_us < ?", (before_us,), at_most)
