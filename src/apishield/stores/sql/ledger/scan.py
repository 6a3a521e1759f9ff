"""Walks all decisions of a period, in the order of time.

Owns: which chunks are open at once, how decisions of several are put in one order. Does not own: where chunks lie and what they
hold (``stored``), how much of the process it may take (``turns``).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from operator import attrgetter
from typing import Final

import msgspec

from apishield.core.events import HELD, DecisionEvent, Event, ResultEvent, SettlementEvent
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.chunks import EVENTS_AT_MOST, HOUR_US, Chunk
from apishield.stores.sql.ledger.statements import select_rows
from apishield.stores.sql.ledger.stored import FIELDS, StoredDecision, overlapping, payloads
from apishield.stores.sql.ledger.turns import Turns

_PAGE, _LARGEST_PAGE = 8, 256
_PAGE_EVENTS: Final = 8 * EVENTS_AT_MOST
"""So many events are read at once, about: of a tenant with little traffic they lie in many small chunks."""

_MOST_PAGE_EVENTS: Final = 2 * _PAGE_EVENTS
_GROUP_EVENTS: Final = 256  # some tenths of a millisecond of work
_CHUNKS_REMEMBERED: Final = 64

_time = attrgetter("event.at_us", "spool", "event.sequence")


class Order(msgspec.Struct, frozen=True):
    """In which direction a period is walked."""

    newest_first: bool

    @property
    def column(self) -> str:
        """What chunks are ordered by."""
        return "to_us" if self.newest_first else "from_us"

    def border_us(self, chunk: Chunk) -> int:
        """No chunk behind ``chunk`` has decisions from before this moment, in this direction."""
        return chunk.to_us if self.newest_first else chunk.from_us

    def sort(self, decisions: list[StoredDecision]) -> None:
        """Puts decisions in order."""
        decisions.sort(key=_time, reverse=self.newest_first)

    def before(self, decisions: Sequence[StoredDecision], border_us: int) -> int:
        """How many of these decisions, which are in order, come before the moment."""
        if self.newest_first:
            return bisect_left(decisions, -border_us, key=lambda stored: -stored.event.at_us)
        return bisect_left(decisions, border_us, key=lambda stored: stored.event.at_us)


class Scan:
    """A walk over a tenant's decisions from ``from_us`` to before ``to_us``.

    ``results``: with what the API answered to each; else only with what it cost in the end, where it had reserved.
    """

    def __init__(
        self, database: Database, turns: Turns, tenant_id: str, from_us: int, to_us: int, order: Order, *, results: bool
    ) -> None:
        self._turns = turns
        self._from_us, self._to_us = from_us, to_us
        self._order = order
        self._pages = _Pages(database, tenant_id, from_us, to_us, order)
        self._later = _Later(database, turns, tenant_id)
        self._results = results

    async def lists(self) -> AsyncGenerator[list[StoredDecision], None]:
        """The decisions, 1,024 at once at most. Holds no transaction between two lists."""
        order = self._order
        waiting: list[StoredDecision] = []
        unsorted = 0
        # Who walks from the oldest on wants all of them, who begins with the newest only some.
        async with aclosing(self._each() if order.newest_first else self._ahead()) as pages:
            async for page in pages:
                groups = _groups(page)
                read = await self._read(groups)
                for at, decisions in enumerate(read):
                    is_last = at + 1 == len(groups)
                    # Later groups begin behind this moment: what lies before it is complete.
                    border_us = order.border_us(page[-1] if is_last else groups[at + 1][0])
                    async with self._turns.turn():
                        waiting += decisions
                        unsorted += len(decisions)
                        if 4 * unsorted < len(waiting) and not is_last:
                            continue  # much overlaps: to sort it for each group would be slow
                        order.sort(waiting)
                        unsorted = 0
                        ready = order.before(waiting, border_us)
                        some, waiting = waiting[:ready], waiting[ready:]
                    for start in range(0, len(some), EVENTS_AT_MOST):
                        yield some[start : start + EVENTS_AT_MOST]
        for start in range(0, len(waiting), EVENTS_AT_MOST):  # in order since the last page
            yield waiting[start : start + EVENTS_AT_MOST]

    async def _each(self) -> AsyncGenerator[list[Chunk], None]:
        """The pages."""
        while page := await self._pages.next():
            yield page

    async def _ahead(self) -> AsyncGenerator[list[Chunk], None]:
        """The pages, each of which is read while the one before is worked on."""
        coming = asyncio.create_task(self._pages.next())
        try:
            while page := await coming:
                coming = asyncio.create_task(self._pages.next())
                yield page
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _read(self, groups: Sequence[Sequence[Chunk]]) -> list[list[StoredDecision]]:
        """The decisions of each group that were made in the period, with what became known of them."""
        opened: list[list[tuple[Chunk, list[Event]]]] = []
        extents: dict[int, tuple[int, int]] = {}
        for group in groups:
            async with self._turns.turn():
                opened.append([(chunk, chunk.events()) for chunk in group])
                for chunk, events in opened[-1]:
                    self._extend(extents, chunk, events)
        await self._later.read(extents)
        read: list[list[StoredDecision]] = []
        for some in opened:
            async with self._turns.turn():
                read.append([stored for chunk, events in some for stored in self._stored(chunk.spool, events)])
        return read

    def _extend(self, extents: dict[int, tuple[int, int]], chunk: Chunk, events: Sequence[Event]) -> None:
        """Widens the extents, by spool, of decisions of which more may have to be known."""
        if self._results:
            lowest, highest = chunk.first_sequence, chunk.last_sequence
        else:  # only what is held is ever settled
            held = [event.sequence for event in events if isinstance(event, DecisionEvent) and event.flags & HELD]
            if not held:
                return
            lowest, highest = min(held), max(held)
        first, last = extents.get(chunk.spool, (lowest, highest))
        extents[chunk.spool] = min(first, lowest), max(last, highest)

    def _stored(self, spool: int, events: Sequence[Event]) -> list[StoredDecision]:
        from_us, to_us = self._from_us, self._to_us
        later = self._later.known.get(spool)
        made = [event for event in events if isinstance(event, DecisionEvent) and from_us <= event.at_us < to_us]
        if later is None:
            return [StoredDecision(spool, event) for event in made]
        results, settlements = later.results, later.settlements
        return [
            StoredDecision(spool, event, results.get(event.sequence), settlements.get(event.sequence)) for event in made
        ]


class _Pages:
    """Chunks that overlap the period, in order, some at once. None is longer than an hour, so no other can."""

    def __init__(self, database: Database, tenant_id: str, from_us: int, to_us: int, order: Order) -> None:
        self._database = database
        self._order = order
        column = order.column
        beyond, direction = ("<", "DESC") if order.newest_first else (">", "ASC")
        self._statement = (
            f"SELECT {FIELDS} FROM decision_chunks WHERE tenant_id = ? AND kind = 'decision' "  # noqa: S608  names of ours
            f"AND {column} >= ? AND {column} < ? AND to_us >= ? AND from_us < ? "
            f"AND ({column}, id) {beyond} (?, ?) ORDER BY {column} {direction}, id {direction} LIMIT ?"
        )
        # The first pair says it again for the index: a chunk is an hour long at most.
        self._parameters = (tenant_id, from_us - HOUR_US, to_us + HOUR_US, from_us, to_us)
        self._last = (to_us + HOUR_US, 0) if order.newest_first else (from_us - HOUR_US, 0)
        self._size = _PAGE
        self._is_over = False

    async def next(self) -> list[Chunk]:
        """The next page; empty after the last."""
        if self._is_over:
            return []
        size = self._size
        async with self._database.read() as work:
            rows = await select_rows(work.connection, self._statement, (*self._parameters, *self._last, size))
        chunks = _fitting([Chunk(*row) for row in rows])
        self._is_over = len(chunks) < size and len(chunks) == len(rows)
        if chunks:
            self._last = (self._order.border_us(chunks[-1]), chunks[-1].id)
            fitting = _PAGE_EVENTS * len(chunks) // max(1, sum(chunk.size for chunk in chunks))
            self._size = min(_LARGEST_PAGE, max(_PAGE, fitting))
        return chunks


def _fitting(chunks: list[Chunk]) -> list[Chunk]:
    """Those that are not too many events to hold at once: where traffic rises they are more than the page before foretold."""
    events = 0
    for place, chunk in enumerate(chunks):
        events += chunk.size
        if events > _MOST_PAGE_EVENTS and place:
            return chunks[:place]
    return chunks


def _groups(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Chunks that are worked on together: one, or several small ones."""
    groups: list[list[Chunk]] = []
    size = _GROUP_EVENTS
    for chunk in chunks:
        size += chunk.size
        if size > _GROUP_EVENTS:
            groups.append([])
            size = chunk.size
        groups[-1].append(chunk)
    return groups


class _Known(msgspec.Struct):
    """What became known of decisions later, by sequence."""

    results: dict[int, ResultEvent] = {}
    settlements: dict[int, SettlementEvent] = {}

    def add(self, other: _Known) -> None:
        self.results.update(other.results)
        self.settlements.update(other.settlements)


class _Later:
    """Chunks of results that were opened of late: those of neighbouring decisions often lie in the same one.

    ``known`` is what those say that were asked for last, by spool.
    """

    def __init__(self, database: Database, turns: Turns, tenant_id: str) -> None:
        self.known: dict[int, _Known] = {}
        self._database = database
        self._turns = turns
        self._tenant_id = tenant_id
        self._opened: OrderedDict[int, _Known] = OrderedDict()

    async def read(self, extents: dict[int, tuple[int, int]]) -> None:
        """Reads what is known of decisions, by spool from one sequence to another."""
        self.known = {}
        if not extents:
            return
        async with self._database.read() as work:
            wanted = {
                (row.id, row.spool)
                for spool, (first, last) in extents.items()
                for row in await overlapping(work.connection, self._tenant_id, "result", spool, first, last)
            }
            missing = [row_id for row_id, _ in wanted if row_id not in self._opened]
            chunks = await payloads(work.connection, self._tenant_id, missing)
        for chunk in chunks:
            async with self._turns.turn():
                self._opened[chunk.id] = _known(chunk.events())
        for row_id, spool in sorted(wanted):
            if row_id in self._opened:
                async with self._turns.turn():
                    self.known.setdefault(spool, _Known()).add(self._opened[row_id])
        while len(self._opened) > _CHUNKS_REMEMBERED:
            self._opened.popitem(last=False)


def _known(events: Sequence[Event]) -> _Known:
    known = _Known()
    for event in events:
        if isinstance(event, ResultEvent):
            known.results[event.sequence] = event
        elif isinstance(event, SettlementEvent):
            known.settlements[event.sequence] = event
    return known
