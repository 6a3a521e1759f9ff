"""Counts in place of details: what is left of a decision where there is no room for it, or where there are too many.

A kind is what a ``CountEvent`` names. Where there are too many kinds, the rest are told apart by key only, and in the end by
tenant and code only; the number of decisions and of units is exact in any case.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from apishield.analytics.endpoint_names import collapse
from apishield.core.events import HELD, PEEK, CountEvent, DecisionEvent, Event, ResultEvent, SettlementEvent, Units

MINUTE_US = 60_000_000
MAX_KINDS = 10_000
MAX_KEYS = 50_000

Kind = tuple[int, str, str, int, str | None, str | None, str | None, str | None, str | None, str | None]


class _Sum(msgspec.Struct, gc=False):
    count: int = 0
    requests: int = 0
    others: dict[str, int] | None = None
    results: dict[int, int] | None = None

    def add_units(self, units: Units, sign: int = 1) -> None:
        if isinstance(units, int):
            self.requests += sign * units
            return
        for unit, amount in units.items():
            if unit == "requests":
                self.requests += sign * amount
            else:
                self.others = self.others or {}
                self.others[unit] = self.others.get(unit, 0) + sign * amount

    def units(self) -> Units:
        return {"requests": self.requests, **self.others} if self.others else self.requests


class Counts:
    """Counts by kind and minute, of bounded size. ``len`` is how many kinds it holds."""

    def __init__(self, *, max_kinds: int = MAX_KINDS, max_keys: int = MAX_KEYS) -> None:
        self._sums: dict[Kind, _Sum] = {}
        self._max_kinds, self._max_keys = max_kinds, max_keys

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, event: DecisionEvent) -> None:
        """Counts a decision. A peek is a question and not use: it goes without trace."""
        if event.flags & PEEK:
            return
        found = self._sum_of(event)
        found.count += 1
        found.add_units(event.units)

    def add_result(self, decision: DecisionEvent, result: ResultEvent) -> None:
        """Counts what the API answered to a decision that was added."""
        if decision.flags & PEEK:
            return
        found = self._sum_of(decision)
        found.results = found.results or {}
        found.results[result.status] = found.results.get(result.status, 0) + 1

    def add_settlement(self, decision: DecisionEvent, settlement: SettlementEvent) -> None:
        """Puts the final units in the place of those with which the decision was added."""
        found = self._sum_of(decision)
        estimated = {"requests": decision.units} if isinstance(decision.units, int) else decision.units
        found.add_units(estimated, -1)
        if not settlement.released:
            found.add_units(estimated | settlement.units)

    def take(self) -> list[Event]:
        """All counts as events; none are left."""
        events: list[Event] = [
            CountEvent(
                at_us=kind[0], tenant_id=kind[1], code=kind[2], flags=kind[3], count=found.count, key_id=kind[4],
                customer_id=kind[5], method=kind[6], path=kind[7], endpoint=kind[8], country=kind[9],
                units=found.units(), results=found.results,
            )
            for kind, found in self._sums.items()
        ]  # fmt: skip
        self._sums = {}
        return events

    def put_back(self, events: Iterable[Event]) -> None:
        """Adds what ``take`` has given, where it could not be written."""
        for event in events:
            if isinstance(event, CountEvent):
                found = self._at(_kind_of_count(event))
                found.count += event.count
                found.add_units(event.units)
                for status, number in (event.results or {}).items():
                    found.results = found.results or {}
                    found.results[status] = found.results.get(status, 0) + number

    def _sum_of(self, event: DecisionEvent) -> _Sum:
        return self._at(_kind_of(event))

    def _at(self, kind: Kind) -> _Sum:
        found = self._sums.get(kind)
        if found is None and len(self._sums) >= self._max_kinds:
            kind = _by_key(kind) if len(self._sums) < self._max_kinds + self._max_keys else _by_code(kind)
            found = self._sums.get(kind)
        if found is None:
            found = self._sums[kind] = _Sum()
        return found


def _kind_of(event: DecisionEvent) -> Kind:
    path = None if event.endpoint is not None or event.path is None else _collapsed(event.path)
    return (
        event.at_us - event.at_us % MINUTE_US, event.tenant_id, event.code, event.flags & ~HELD, event.key_id,
        event.customer_id, event.method, path, event.endpoint, event.country,
    )  # fmt: skip


_collapsed = lru_cache(maxsize=4096)(collapse)  # a flood has few paths, or so many that a look at each is right


def _kind_of_count(event: CountEvent) -> Kind:
    return (
        event.at_us, event.tenant_id, event.code, event.flags, event.key_id,
        event.customer_id, event.method, event.path, event.endpoint, event.country,
    )  # fmt: skip


def _by_key(kind: Kind) -> Kind:
    return (*kind[:6], None, None, None, None)


def _by_code(kind: Kind) -> Kind:
    return (*kind[:4], None, None, None, None, None, None)
