"""What chunks hold, and where they lie: decisions put together with what became known of them later.

Owns: the statements that find chunks; each of them names the tenant. Does not own: what is looked for (``archive``, ``scan``),
how chunks are written (``chunks``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.events import DecisionEvent, Event, ResultEvent, SettlementEvent
from apishield.stores.sql.ledger.chunks import BLOCK, Chunk
from apishield.stores.sql.ledger.statements import select_rows

FIELDS: Final = "id, spool, first_sequence, last_sequence, from_us, to_us, events, payload"
"""The columns of a ``Chunk``."""


class StoredDecision(msgspec.Struct, frozen=True, gc=False):
    """A decision, and what became known of it later. ``spool`` and the event's sequence are its place."""

    spool: int
    event: DecisionEvent
    result: ResultEvent | None = None
    settlement: SettlementEvent | None = None


class Found:
    """Decisions and what became known of them, by place."""

    def __init__(self) -> None:
        self.decisions: dict[tuple[int, int], DecisionEvent] = {}
        self.results: dict[tuple[int, int], ResultEvent] = {}
        self.settlements: dict[tuple[int, int], list[SettlementEvent]] = {}

    def add(self, spool: int, events: Iterable[Event]) -> None:
        """Adds the events of a chunk."""
        for event in events:
            if isinstance(event, DecisionEvent):
                self.decisions[spool, event.sequence] = event
            elif isinstance(event, ResultEvent):
                self.results[spool, event.sequence] = event
            elif isinstance(event, SettlementEvent):
                self.settlements.setdefault((spool, event.sequence), []).append(event)

    def stored(self, spool: int, event: DecisionEvent) -> StoredDecision:
        """The decision with all that is known of it."""
        place = (spool, event.sequence)
        settlements = self.settlements.get(place)
        return StoredDecision(spool, event, self.results.get(place), settlements[-1] if settlements else None)


async def overlapping(
    connection: AsyncConnection, tenant_id: str, kind: str, spool: int, first: int, last: int
) -> Sequence[Any]:
    """Where chunks lie that overlap ``first`` to ``last``."""
    statement = (
        "SELECT id, spool, first_sequence, last_sequence FROM decision_chunks "
        "WHERE tenant_id = ? AND kind = ? AND spool = ? AND first_sequence BETWEEN ? AND ? AND last_sequence >= ? "
        "ORDER BY id"
    )
    return await select_rows(connection, statement, (tenant_id, kind, spool, start_of_block(first), last, first))


async def payloads(connection: AsyncConnection, tenant_id: str, ids: Sequence[int]) -> list[Chunk]:
    """Chunks of the tenant, by number."""
    chunks: list[Chunk] = []
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        places = ", ".join("?" for _ in some)
        statement = (
            f"SELECT {FIELDS} FROM decision_chunks "  # noqa: S608  names of ours
            f"WHERE tenant_id = ? AND id IN ({places}) ORDER BY id"
        )
        chunks += [Chunk(*row) for row in await select_rows(connection, statement, (tenant_id, *some))]
    return chunks


def start_of_block(sequence: int) -> int:
    """The first sequence of the block: no chunk of another block holds ``sequence``."""
    return sequence - sequence % BLOCK
