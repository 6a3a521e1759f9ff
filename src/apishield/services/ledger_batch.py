"""What the events of one intake come to: sums, decisions to keep, results that still want their decision.

Owns: which events count, and with which decision a result is put together. Does not own: reading and writing tables. Nothing
here is kept after the transaction but ``RecentDecisions``, which is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Final

import msgspec

from apishield.analytics.endpoint_names import collapse
from apishield.analytics.rollup import ADMITTED, Aggregator, settled
from apishield.core.events import (
    PEEK,
    CountEvent,
    DecisionEvent,
    Event,
    ResultEvent,
    Units,
)
from apishield.stores.sql.ledger.chunks import ChunkRows
from apishield.stores.sql.ledger.pending import Late
from apishield.stores.sql.ledger.stored import Found
from apishield.stores.sql.ledger.taken import TakenBits

_HOUR_US: Final = 3_600_000_000
_EARLIEST_US: Final = 1_577_836_800_000_000  # 2020: before the first version of this program
AHEAD_US: Final = _HOUR_US
"""How far another machine's clock may be ahead."""
LATEST_RESULT_US: Final = 24 * _HOUR_US
"""A result that is told later than this after its decision is not taken."""

Place = tuple[int, int]
_tenant_id = attrgetter("tenant_id")


class RecentDecisions:
    """Decisions that were written last, with their present units: most results come within seconds."""

    def __init__(self, at_least: int = 16_384) -> None:
        self._at_least = at_least
        self._young: dict[Place, DecisionEvent] = {}
        self._old: dict[Place, DecisionEvent] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, place: Place) -> DecisionEvent | None:
        """The decision at this place, if it is remembered."""
        return self._young.get(place) or self._old.get(place)

    def add(self, decisions: dict[Place, DecisionEvent]) -> None:
        """Remembers decisions, in a dictionary that is the caller's no more; at most about twice ``at_least`` and these."""
        if self._young:
            self._young.update(decisions)
        else:
            self._young = decisions
        if len(self._young) >= self._at_least:
            self._old, self._young = self._young, {}


class Batch:
    """The events of one intake, sorted and summed."""

    def __init__(self, now_us: int, recent: RecentDecisions, *, details: bool) -> None:
        self.now_us = now_us
        self.events = 0
        self.broken_frames = 0
        self.clamped = 0
        self.late_dropped = 0
        self.duplicates = 0
        self.newest_us = 0
        self.waiting_dropped = 0
        self.decisions: dict[Place, DecisionEvent] = {}
        self.counts: list[CountEvent] = []
        self.late: list[Late] = []
        self.waiting: list[Late] = []
        self.chunks = ChunkRows()
        self._recent = recent
        self._details = details
        self._known: dict[Place, DecisionEvent] = {}  # found in the archive, or changed by a settlement

    # --- reading ------------------------------------------------------------------------------------------------------

    def add(self, spool: int, events: Iterable[Event]) -> None:
        """Sorts the events of a frame. Times that can't be are put right: another machine's clock is not to be trusted."""
        latest_us = self.now_us + AHEAD_US
        decisions, newest_us = self.decisions, self.newest_us
        for event in events:
            self.events += 1
            if not _EARLIEST_US <= event.at_us <= latest_us:
                event = self._put_right(event)  # noqa: PLW2901
            if type(event) is DecisionEvent:
                decisions[spool, event.sequence] = event
                newest_us = max(newest_us, event.at_us)
            elif type(event) is CountEvent:
                self.counts.append(event)
            else:
                self.late.append(event)  # type: ignore[arg-type]
        self.newest_us = newest_us

    def _put_right(self, event: Event) -> Event:
        self.clamped += 1
        return msgspec.structs.replace(event, at_us=self.now_us)

    def _is_possible(self, at_us: int) -> bool:
        return _EARLIEST_US <= at_us <= self.now_us + AHEAD_US

    def tenants(self) -> set[str]:
        """Whose endpoints are to be known before the sums are made."""
        return set(map(_tenant_id, chain(self.decisions.values(), self.counts, self.late)))

    # --- results ------------------------------------------------------------------------------------------------------

    def results(self) -> list[ResultEvent]:
        """The results, to load the bits of."""
        return [event for event in self.late if type(event) is ResultEvent]

    def take(self, bits: TakenBits) -> None:
        """Drops results that were counted before, and those that come too late."""
        taken: list[Late] = []
        for event in self.late:
            if type(event) is ResultEvent:
                if self._is_too_late(event):
                    self.late_dropped += 1
                    continue
                if not bits.take(event):
                    self.duplicates += 1
                    continue
            taken.append(event)
        self.late = taken

    def _is_too_late(self, event: ResultEvent) -> bool:
        decided_us = event.decided_at_ms * 1000
        return self._is_possible(decided_us) and event.at_us - decided_us > LATEST_RESULT_US

    def missing(self) -> dict[tuple[str, int], set[int]]:
        """Decisions that are neither in this intake nor remembered: by tenant and spool, their sequences."""
        wanted: dict[tuple[str, int], set[int]] = {}
        for event in self.late:
            if self._decision((event.spool, event.sequence)) is None:
                wanted.setdefault((event.tenant_id, event.spool), set()).add(event.sequence)
        return wanted

    def learn(self, found: Mapping[tuple[str, int], Found]) -> None:
        """Takes decisions that were looked up."""
        for some in found.values():
            for place, event in some.decisions.items():
                units: Units = event.units
                for settlement in some.settlements.get(place, ()):
                    units = settled(units, settlement)
                self._known[place] = event if units is event.units else msgspec.structs.replace(event, units=units)

    def _decision(self, place: Place) -> DecisionEvent | None:
        return self._known.get(place) or self.decisions.get(place) or self._recent.get(place)

    # --- sums ---------------------------------------------------------------------------------------------------------

    def summed(self, knows_endpoint: Callable[[str, str, str, bool], bool]) -> Aggregator:
        """The sums of everything; notes what is to be kept, and what waits for its decision."""
        sums = Aggregator(knows_endpoint)
        add_decision, add_chunk, details = sums.add_decision, self.chunks.add_decision, self._details
        results, others = self._sorted_late()
        for place, event in self.decisions.items():
            result = results.get(place)
            add_decision(event, result)
            add_chunk(place[0], event if details else _bare(event))
            if result is not None and not event.flags & PEEK:
                self.chunks.add_result(result, event.at_us)
        for count in self.counts:
            sums.add_count(count)
        for late in others:
            decision = self._decision((late.spool, late.sequence))
            if decision is None or decision.tenant_id != late.tenant_id:
                self.waiting.append(late)
            elif not decision.flags & PEEK:
                self._join(sums, decision, late)
        return sums

    def _sorted_late(self) -> tuple[dict[Place, ResultEvent], list[Late]]:
        """Results whose decision is in this intake, by its place, each of which there is once; and all others."""
        decisions = self.decisions
        results: dict[Place, ResultEvent] = {}
        others: list[Late] = []
        for late in self.late:
            if type(late) is ResultEvent:
                place = (late.spool, late.sequence)
                decision = decisions.get(place)
                if decision is not None and decision.tenant_id == late.tenant_id:
                    results[place] = late
                    continue
            others.append(late)
        return results, others

    def _join(self, sums: Aggregator, decision: DecisionEvent, late: Late) -> None:
        if isinstance(late, ResultEvent):
            sums.add_result(decision, late)
        else:
            sums.add_settlement(decision, late, decision.units)
            after = settled(decision.units, late)
            self._known[late.spool, late.sequence] = msgspec.structs.replace(decision, units=after)
        self.chunks.add_result(late, decision.at_us)

    def answers(self) -> tuple[Counter[int], list[int]]:
        """What the API answered to checks that were let through: how often each status, and each latency (µs) that is known."""
        statuses, latencies_us = Counter[int](), list[int]()
        for late in self.late:
            if type(late) is ResultEvent:
                decision = self._decision((late.spool, late.sequence))
                if decision is not None and decision.tenant_id == late.tenant_id and _is_served(decision):
                    statuses[late.status] += 1
                    latencies_us.append(late.latency_us)
        for count in self.counts:
            if count.results and _is_served(count):
                statuses.update(count.results)
        return statuses, latencies_us

    def remember(self) -> None:
        """Once it is written: later results find these decisions in memory."""
        self._recent.add(self.decisions)
        self._recent.add(self._known)


def _is_served(event: DecisionEvent | CountEvent) -> bool:
    return event.code == ADMITTED and not event.flags & PEEK


def _bare(event: DecisionEvent) -> DecisionEvent:
    """What a later result needs to be counted, and nothing that tells of the caller."""
    return DecisionEvent(
        event.sequence,
        event.at_us,
        event.tenant_id,
        event.code,
        event.flags,
        event.key_id,
        event.customer_id,
        event.method,
        collapse(event.path) if event.endpoint is None else None,
        event.endpoint,
        country=event.country,
        units=event.units,
    )
