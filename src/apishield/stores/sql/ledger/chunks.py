"""Decisions at rest: events of one tenant and one spool, compressed together.

A chunk lies within ``BLOCK`` sequences and within an hour, so that whoever looks for one decision, or for a period, knows which
chunks can hold it without an entry per decision.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

import msgspec

from apishield.core.events import DecisionEvent, Event, ResultEvent, SettlementEvent, decode_events
from apishield.stores.sql.ledger.statements import Row

BLOCK: Final = 16_384
EVENTS_AT_MOST: Final = 1_024
HOUR_US: Final = 3_600_000_000

COLUMNS: Final = "tenant_id, kind, spool, first_sequence, last_sequence, from_us, to_us, events, payload"
INSERT: Final = f"INSERT INTO decision_chunks ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608

Kept = DecisionEvent | ResultEvent | SettlementEvent
_sequence, _at_us, _decided_at_ms = map(attrgetter, ("sequence", "at_us", "decided_at_ms"))
_encode = msgspec.msgpack.Encoder().encode


class Chunk(msgspec.Struct, frozen=True):
    """A row of ``decision_chunks``. Kind ``result`` holds what became known after the chunk of the decision was written.

    ``size`` is how many events lie in it.
    """

    id: int
    spool: int
    first_sequence: int
    last_sequence: int
    from_us: int
    to_us: int
    size: int
    payload: bytes

    def events(self) -> list[Event]:
        """What lies in it."""
        return unpack(self.payload)


def pack(events: Sequence[Kept]) -> bytes:
    """Events as a chunk's payload."""
    return zlib.compress(_encode(events), 1)


def unpack(payload: bytes) -> list[Event]:
    """The events of a payload."""
    return decode_events(zlib.decompress(payload))


class ChunkRows:
    """Collects events into rows of ``decision_chunks``."""

    def __init__(self) -> None:
        self._decisions: dict[tuple[str, int, int, int], list[Kept]] = {}
        self._results: dict[tuple[str, int, int, int], list[Kept]] = {}

    def add_decision(self, spool: int, event: DecisionEvent) -> None:
        """Adds a decision that was made in ``spool``."""
        place = (event.tenant_id, spool, event.sequence // BLOCK, event.at_us // HOUR_US)
        events = self._decisions.get(place)
        if events is None:
            self._decisions[place] = [event]
        else:
            events.append(event)

    def add_result(self, event: ResultEvent | SettlementEvent, decided_at_us: int) -> None:
        """Adds what became known of a decision that was made at ``decided_at_us``."""
        place = (event.tenant_id, event.spool, event.sequence // BLOCK, decided_at_us // HOUR_US)
        self._results.setdefault(place, []).append(event)

    def rows(self) -> list[Row]:
        """All of it, as rows."""
        found: list[Row] = []
        for kind, groups in (("decision", self._decisions), ("result", self._results)):
            for (tenant_id, spool, _, hour), events in groups.items():
                for start in range(0, len(events), EVENTS_AT_MOST):
                    some = events[start : start + EVENTS_AT_MOST]
                    found.append((tenant_id, kind, spool, *_extent(kind, some, hour), len(some), pack(some)))
        return found


def _extent(kind: str, events: Sequence[Kept], hour: int) -> tuple[int, int, int, int]:
    """First and last sequence, earliest and latest moment of the decisions."""
    sequences = list(map(_sequence, events))
    times_us = list(map(_at_us, events)) if kind == "decision" else [at * 1000 for at in map(_decided_at_ms, events)]
    # A result whose decision's time was put right tells another hour than the one it is kept by.
    start_us, end_us = hour * HOUR_US, (hour + 1) * HOUR_US - 1
    earliest, latest = max(min(times_us), start_us), min(max(times_us), end_us)
    return min(sequences), max(sequences), min(earliest, end_us), max(latest, start_us)
