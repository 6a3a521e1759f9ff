"""Reads decisions back: one by its place, or all of a period, in the order of time.

Owns: which chunks can hold what is asked for, decisions and results put together. Does not own: how chunks are written
(``chunks``), who may ask (``services``). Every statement but one names the tenant; ``find_public`` asks of each tenant it
finds whether the id is that tenant's, before it opens anything.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.events import CountEvent, DecisionEvent, Event, EventRef, ResultEvent, SettlementEvent
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.chunks import BLOCK, EVENTS_AT_MOST, HOUR_US, Chunk
from apishield.stores.sql.ledger.statements import select_rows
from apishield.stores.sql.ledger.turns import Turns

_DAY_US: Final = 24 * HOUR_US
_PAGE, _LARGEST_PAGE = 8, 64
_PAGE_EVENTS: Final = 8 * EVENTS_AT_MOST
"""So many events are read at once, about: of a tenant with little traffic they lie in many small chunks."""

_CHUNKS_REMEMBERED: Final = 64
_MOST_OPENED: Final = 1_000  # for one decision
_FIELDS: Final = "id, spool, first_sequence, last_sequence, from_us, to_us, payload"


class StoredDecision(msgspec.Struct, frozen=True):
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
        place = (ref.spool, _start(ref.sequence), ref.sequence, ref.sequence)
        async with self._database.read() as work:
            tenants = await select_rows(work.connection, statement, place)
        for (tenant_id,) in tenants:
            if is_tenant(tenant_id):
                return await self._find(tenant_id, ref)
        return None

    async def scan(
        self, tenant_id: str, from_us: int, to_us: int, *, newest_first: bool = False
    ) -> AsyncGenerator[list[StoredDecision], None]:
        """The tenant's decisions from ``from_us`` to before ``to_us``, in the order of time, 1,024 at once at most.

        Holds as many chunks as overlap in time, however long the period is, and no transaction between two lists.
        """
        from_us = max(from_us, self.kept_from_us)
        opened = _Opened(self._database, tenant_id, self.turns)
        order = _NEWEST_FIRST if newest_first else _OLDEST_FIRST
        waiting: list[StoredDecision] = []
        async for chunks in _pages(self._database, tenant_id, from_us, to_us, order):
            for decisions in await opened.read(chunks):
                async with self.turns.turn():
                    waiting += [stored for stored in decisions if from_us <= stored.event.at_us < to_us]
            # Later pages begin behind the last chunk of this one: what lies before that is complete.
            border_us = order.border_us(chunks[-1])
            async with self.turns.turn():
                ready = [stored for stored in waiting if order.is_before(stored.event.at_us, border_us)]
                waiting = [stored for stored in waiting if not order.is_before(stored.event.at_us, border_us)]
                ready = order.sorted(ready)
            for start in range(0, len(ready), EVENTS_AT_MOST):
                yield ready[start : start + EVENTS_AT_MOST]
        async with self.turns.turn():
            waiting = order.sorted(waiting)
        for start in range(0, len(waiting), EVENTS_AT_MOST):
            yield waiting[start : start + EVENTS_AT_MOST]

    async def _find(self, tenant_id: str, ref: EventRef) -> StoredDecision | None:
        known = Found()
        async with self._database.read() as work:  # let go of before the first turn, which others may have
            ids = await _holding(work.connection, tenant_id, ref.spool, [ref.sequence])
            chunks = await _payloads(work.connection, tenant_id, ids[:_MOST_OPENED])
        for chunk in chunks:
            async with self.turns.turn():
                known.add(ref.spool, (event for event in chunk.events() if _sequence(event) == ref.sequence))
        event = known.decisions.get((ref.spool, ref.sequence))
        return None if event is None else known.stored(ref.spool, event)

    def _is_gone(self, at_us: int) -> bool:
        return at_us < self.kept_from_us


class _Order(msgspec.Struct, frozen=True):
    """In which direction a period is walked."""

    newest_first: bool

    @property
    def column(self) -> str:
        return "to_us" if self.newest_first else "from_us"

    def border_us(self, chunk: Chunk) -> int:
        return chunk.to_us if self.newest_first else chunk.from_us

    def is_before(self, at_us: int, border_us: int) -> bool:
        return at_us > border_us if self.newest_first else at_us < border_us

    def sorted(self, decisions: list[StoredDecision]) -> list[StoredDecision]:
        return sorted(decisions, key=_time, reverse=self.newest_first)


_OLDEST_FIRST: Final = _Order(newest_first=False)
_NEWEST_FIRST: Final = _Order(newest_first=True)


def _time(stored: StoredDecision) -> tuple[int, int, int]:
    return stored.event.at_us, stored.spool, stored.event.sequence


async def _pages(
    database: Database, tenant_id: str, from_us: int, to_us: int, order: _Order
) -> AsyncIterator[list[Chunk]]:
    """Chunks that overlap the period, in order. None is longer than an hour, so no other can."""
    column = order.column
    beyond, direction = ("<", "DESC") if order.newest_first else (">", "ASC")
    statement = (
        f"SELECT {_FIELDS}, events FROM decision_chunks WHERE tenant_id = ? AND kind = 'decision' "  # noqa: S608  names of ours
        f"AND {column} >= ? AND {column} < ? AND to_us >= ? AND from_us < ? "
        f"AND ({column}, id) {beyond} (?, ?) ORDER BY {column} {direction}, id {direction} LIMIT ?"
    )
    size = _PAGE
    last = (to_us + HOUR_US, 0) if order.newest_first else (from_us - HOUR_US, 0)
    while True:
        # The first pair says it again for the index: a chunk is an hour long at most.
        parameters = (tenant_id, from_us - HOUR_US, to_us + HOUR_US, from_us, to_us, *last, size)
        async with database.read() as work:
            rows = await select_rows(work.connection, statement, parameters)
        chunks = [Chunk(*row[:-1]) for row in rows]
        if chunks:
            yield chunks
        if len(chunks) < size:
            return
        last = (order.border_us(chunks[-1]), chunks[-1].id)
        size = min(_LARGEST_PAGE, max(_PAGE, _PAGE_EVENTS * len(rows) // max(1, sum(row.events for row in rows))))


class _Opened:
    """Chunks of results that were opened of late: those of neighbouring decisions often lie in the same one."""

    def __init__(self, database: Database, tenant_id: str, turns: Turns) -> None:
        self._database = database
        self._tenant_id = tenant_id
        self._turns = turns
        self._events: OrderedDict[int, list[Event]] = OrderedDict()

    async def read(self, chunks: Sequence[Chunk]) -> list[list[StoredDecision]]:
        """The decisions of each chunk, with their results."""
        found = Found()
        events: list[tuple[int, list[Event]]] = []
        for chunk in chunks:
            async with self._turns.turn():
                some = chunk.events()
            async with self._turns.turn():
                found.add(chunk.spool, some)
            events.append((chunk.spool, some))
        for spool, late in await self._late(chunks):
            async with self._turns.turn():
                found.add(spool, late)
        read: list[list[StoredDecision]] = []
        for spool, some in events:
            async with self._turns.turn():
                read.append([found.stored(spool, event) for event in some if isinstance(event, DecisionEvent)])
        return read

    async def _late(self, chunks: Sequence[Chunk]) -> list[tuple[int, list[Event]]]:
        extents: dict[int, tuple[int, int]] = {}
        for chunk in chunks:
            first, last = extents.get(chunk.spool, (chunk.first_sequence, chunk.last_sequence))
            extents[chunk.spool] = min(first, chunk.first_sequence), max(last, chunk.last_sequence)
        async with self._database.read() as work:
            wanted = {
                (row.id, row.spool)
                for spool, (first, last) in extents.items()
                for row in await _overlapping(work.connection, self._tenant_id, "result", spool, first, last)
            }
            missing = [row_id for row_id, _ in wanted if row_id not in self._events]
            opened = await _payloads(work.connection, self._tenant_id, missing)
        for chunk in opened:
            async with self._turns.turn():
                self._events[chunk.id] = chunk.events()
        late = [(spool, self._events[row_id]) for row_id, spool in wanted if row_id in self._events]
        while len(self._events) > _CHUNKS_REMEMBERED:
            self._events.popitem(last=False)
        return late


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
            for chunk in await _payloads(connection, tenant_id, ids):
                known.add(spool, chunk.events())
                await asyncio.sleep(0)  # checks may be decided on the same loop: none waits for more than a chunk
    return found


async def _holding(connection: AsyncConnection, tenant_id: str, spool: int, numbers: list[int]) -> list[int]:
    """The numbers of the chunks that can hold any of these sequences, which lie in one block and are in order."""
    ids: list[int] = []
    for kind in ("decision", "result"):
        rows = await _overlapping(connection, tenant_id, kind, spool, numbers[0], numbers[-1])
        ids += [row.id for row in rows if _holds_any(row.first_sequence, row.last_sequence, numbers)]
    return ids


def _sequence(event: Event) -> int | None:
    return None if isinstance(event, CountEvent) else event.sequence


def _holds_any(first: int, last: int, numbers: list[int]) -> bool:
    place = bisect_left(numbers, first)
    return place < len(numbers) and numbers[place] <= last


async def _overlapping(
    connection: AsyncConnection, tenant_id: str, kind: str, spool: int, first: int, last: int
) -> Sequence[Any]:
    """Where chunks lie that overlap ``first`` to ``last``."""
    statement = (
        "SELECT id, spool, first_sequence, last_sequence FROM decision_chunks "
        "WHERE tenant_id = ? AND kind = ? AND spool = ? AND first_sequence BETWEEN ? AND ? AND last_sequence >= ? "
        "ORDER BY id"
    )
    return await select_rows(connection, statement, (tenant_id, kind, spool, _start(first), last, first))


async def _payloads(connection: AsyncConnection, tenant_id: str, ids: Sequence[int]) -> list[Chunk]:
    """Chunks of the tenant, by number."""
    chunks: list[Chunk] = []
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        places = ", ".join("?" for _ in some)
        statement = (
            f"SELECT {_FIELDS} FROM decision_chunks "  # noqa: S608  names of ours
            f"WHERE tenant_id = ? AND id IN ({places}) ORDER BY id"
        )
        chunks += [Chunk(*row) for row in await select_rows(connection, statement, (tenant_id, *some))]
    return chunks


def _start(sequence: int) -> int:
    """The first sequence of the block: no chunk of another block holds ``sequence``."""
    return sequence - sequence % BLOCK
