"""Events become rows: counts, cost, bytes, status classes and latency, by minute and series.

Owns: what is counted where, for each kind of event. Does not own: where rows are kept (``services.ledger``), which endpoints
have a series of their own (a hook says it), when a result or a settlement is taken.

Each event is added to one series only, the most detailed (``Dims.FULL``); all coarser ones are summed from it once an intake
is complete. So an event costs the same however many ways of grouping there are, and no two of them can differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from apishield.analytics.endpoint_names import collapse
from apishield.analytics.histogram import MAX_VALUE_US, Histogram
from apishield.analytics.steps import HOUR_S, MINUTE_S, SECOND_US, Step, floor
from apishield.core.abuse_detector.addresses import parse_address
from apishield.core.endpoints import METHODS
from apishield.core.events import CATALOGUED, PEEK, TEST, CountEvent, DecisionEvent, ResultEvent, SettlementEvent, Units
from apishield.errors import PROBLEMS

OTHER: Final = "(other)"
"""Stands for all values of a dimension that have no series of their own."""

REQUESTS: Final = "requests"
ADMITTED: Final = "ok"
_MINUTE_US: Final = MINUTE_S * SECOND_US
_HOUR_MINUTES: Final = HOUR_S // MINUTE_S
_KEPT_FLAGS: Final = TEST | CATALOGUED
_MAX_COUNTRY: Final = 2


class Dims(StrEnum):
    """The grouping sets: by which dimensions a series tells requests apart, besides the code of their decision."""

    TENANT = "tenant"
    KEY = "key"
    ENDPOINT = "endpoint"
    COUNTRY = "country"
    FULL = "full"


_SUMMED_FROM: Final = {
    Dims.KEY: Dims.FULL,
    Dims.ENDPOINT: Dims.FULL,
    Dims.COUNTRY: Dims.FULL,
    Dims.TENANT: Dims.COUNTRY,  # the fewest series that say as much
}


class Series(NamedTuple):
    """What is counted together. A dimension that is unknown, or not in ``dims``, is ``""``."""

    tenant_id: str
    environment: str
    dims: Dims
    code: str
    key_id: str = ""
    customer_id: str = ""
    endpoint: str = ""
    method: str = ""
    country: str = ""

    def narrow(self, dims: Dims) -> Series:
        """The series of the grouping set ``dims`` in which a series of ``Dims.FULL`` counts, too."""
        tenant_id, environment, _, code, key_id, customer_id, endpoint, method, country = self
        if dims is Dims.TENANT:
            return Series(tenant_id, environment, dims, code)
        if dims is Dims.KEY:
            return Series(tenant_id, environment, dims, code, key_id, customer_id)
        if dims is Dims.ENDPOINT:
            return Series(tenant_id, environment, dims, code, "", "", endpoint, method)
        if dims is Dims.COUNTRY:
            return Series(tenant_id, environment, dims, code, "", "", "", "", country)
        return self

    def other(self) -> Series:
        """The series that counts for all of its grouping set and code that have none of their own."""
        full = Series(self.tenant_id, self.environment, self.dims, self.code, OTHER, OTHER, OTHER, OTHER, OTHER)
        return full if self.dims is Dims.FULL else full.narrow(self.dims)


class Measures(msgspec.Struct):
    """What is summed. All of it adds up, over series and over time.

    ``requests`` counts decisions. ``cost`` is what admitted checks cost in requests, ``units`` what they cost in other units.
    ``results`` counts those of which the API's answer is known, ``bytes`` and ``latency_us`` are their sums. A status class
    counts the results of admitted checks, and refused checks by the status that the refusal has.
    """

    requests: int = 0
    cost: int = 0
    bytes: int = 0
    results: int = 0
    status_1xx: int = 0
    status_2xx: int = 0
    status_3xx: int = 0
    status_4xx: int = 0
    status_5xx: int = 0
    latency_us: int = 0
    latency: Histogram | None = None
    units: dict[str, int] = {}

    def add(self, other: Measures) -> None:
        """Adds all that ``other`` sums."""
        self.requests += other.requests
        self.cost += other.cost
        if other.units:
            self.add_units(other.units)
        self.status_4xx += other.status_4xx
        self.status_5xx += other.status_5xx
        if not other.results:
            return
        self.results += other.results
        self.bytes += other.bytes
        self.status_1xx += other.status_1xx
        self.status_2xx += other.status_2xx
        self.status_3xx += other.status_3xx
        self.latency_us += other.latency_us
        if other.latency is not None:
            if self.latency is None:
                self.latency = other.latency.copy()
            else:
                self.latency.merge(other.latency)

    def add_units(self, units: dict[str, int]) -> None:
        """Adds a cost by unit; ``requests`` among them is ``cost``. A unit that comes to 0 is not kept."""
        for unit, amount in units.items():
            if unit == REQUESTS:
                self.cost += amount
            elif total := self.units.get(unit, 0) + amount:
                self.units[unit] = total
            else:
                self.units.pop(unit, None)

    def add_status(self, status: int, count: int = 1) -> None:
        """Counts ``status`` in its class; what is outside of 100 … 599 counts in the class next to it."""
        if 200 <= status < 300:
            self.status_2xx += count
        elif status >= 500:
            self.status_5xx += count
        elif status >= 400:
            self.status_4xx += count
        elif status >= 300:
            self.status_3xx += count
        else:
            self.status_1xx += count


class Rollup(dict[tuple[Series, int], Measures]):
    """Measures by series and start of the bucket (epoch seconds, UTC), all of one ``step``."""

    __slots__ = ("step",)

    def __init__(self, step: Step = Step.MINUTE) -> None:
        super().__init__()
        self.step = step

    def cell(self, series: Series, bucket_s: int) -> Measures:
        """The measures of ``series`` in the bucket that starts at ``bucket_s``, made where there are none."""
        place = (series, bucket_s)
        measures = self.get(place)
        if measures is None:
            measures = self[place] = Measures()
        return measures

    def at(self, step: Step) -> Rollup:
        """The same, summed into buckets of ``step``, which is as long as this one's or longer."""
        sums = Rollup(step)
        for (series, bucket_s), measures in self.items():
            sums.cell(series, floor(bucket_s, step)).add(measures)
        return sums

    def renamed(self, name: Callable[[Series], Series]) -> Rollup:
        """The same with each series counted as ``name`` says: itself, or one that stands for several."""
        sums = Rollup(self.step)
        for (series, bucket_s), measures in self.items():
            sums.cell(name(series), bucket_s).add(measures)
        return sums


class _Cell(NamedTuple):
    """Where the events of one series and minute are summed.

    ``by_address`` counts decisions by address, of all cells of the tenant, environment, hour and outcome together.
    """

    series: Series
    minute: int
    measures: Measures
    by_address: dict[str, int]


class Aggregator:
    """Sums the events of one intake.

    ``known_endpoint(tenant_id, method, endpoint, claims)`` says whether an endpoint that no catalogue names has a series of
    its own; where it says no the endpoint is counted as ``OTHER``. It is asked once for each, and once more for refusals of
    callers without a known key, which should claim no series: else anybody could fill them all.
    """

    def __init__(self, known_endpoint: Callable[[str, str, str, bool], bool] = lambda *_: True) -> None:
        self._known_endpoint = known_endpoint
        self._cells: dict[tuple[object, ...], _Cell] = {}
        self._names: dict[str | None, str] = {}
        self._known: dict[tuple[str, str, str, bool], bool] = {}
        self._by_address: dict[tuple[str, str, int, bool], dict[str, int]] = {}

    def cells(self) -> Iterator[tuple[Series, int, Measures]]:
        """All that was added, in the most detailed grouping set: series, start of the minute, measures.

        The measures are the aggregator's own. The same series and minute may come several times.
        """
        return ((series, minute * MINUTE_S, measures) for series, minute, measures, _ in self._cells.values())

    @property
    def minutes(self) -> Rollup:
        """All that was added, in all grouping sets. It is summed when asked for: ask once, at the end."""
        sums = Rollup()
        for cell in self._cells.values():
            sums.cell(cell.series, cell.minute * MINUTE_S).add(cell.measures)
        for dims, finer in _SUMMED_FROM.items():
            for (series, bucket_s), measures in [cell for cell in sums.items() if cell[0][0].dims is finer]:
                sums.cell(series.narrow(dims), bucket_s).add(measures)
        return sums

    @property
    def addresses(self) -> dict[tuple[str, str, int, str], list[int]]:
        """Checks by (tenant, environment, start of the hour in epoch seconds, address; for IPv6 its /64).

        For each: [requests, of which refused]. Summed when asked for, as ``minutes``.
        """
        sums: dict[tuple[str, str, int, str], list[int]] = {}
        for (tenant_id, environment, hour, refused), by_address in self._by_address.items():
            hour_s = hour * HOUR_S
            for address, count in by_address.items():
                place = (tenant_id, environment, hour_s, _counted(address) if ":" in address else address)
                counts = sums.get(place)
                if counts is None:
                    sums[place] = [count, count if refused else 0]
                else:
                    counts[0] += count
                    counts[1] += count if refused else 0
        return sums

    def add_decision(self, event: DecisionEvent, result: ResultEvent | None = None) -> None:
        """Counts one decision in the minute in which it was made, with its result if that is known. A peek is not counted."""
        if event.flags & PEEK:
            return
        _, _, measures, by_address = self._cell(event)
        measures.requests += 1
        code, units, address = event.code, event.units, event.address
        if address is not None:
            by_address[address] = by_address.get(address, 0) + 1
        if code != ADMITTED:
            measures.add_status(_status_of(code))
        elif type(units) is int:
            measures.cost += units
        else:
            measures.add_units(as_units(units))
        if result is not None:
            _add_result(measures, code, result)

    def add_count(self, event: CountEvent) -> None:
        """Counts many decisions of one kind whose details were given up. Their addresses and latencies are not known."""
        if event.flags & PEEK:
            return
        measures = self._cell(event).measures
        measures.requests += event.count
        if event.code == ADMITTED:
            measures.add_units(as_units(event.units))
        else:
            measures.add_status(_status_of(event.code), event.count)
        for status, count in (event.results or {}).items():
            measures.results += count
            if event.code == ADMITTED:
                measures.add_status(status, count)

    def add_result(self, decision: DecisionEvent, result: ResultEvent) -> None:
        """Counts what the API answered, in the minute of its decision. A latency counts as 0 to ``MAX_VALUE_US``."""
        if not decision.flags & PEEK:
            _add_result(self._cell(decision).measures, decision.code, result)

    def add_settlement(self, decision: DecisionEvent, settlement: SettlementEvent, current: Units) -> None:
        """Counts the difference between what the check cost in the end and ``current``, in the minute of its decision.

        ``current`` is what is counted for it now: its own units, or, after a settlement, what ``settled`` said then.
        """
        if decision.code != ADMITTED or decision.flags & PEEK:
            return
        before = as_units(current)
        after = settled(current, settlement)
        change = {unit: after[unit] - before.get(unit, 0) for unit in after if after[unit] != before.get(unit, 0)}
        if change:
            self._cell(decision).measures.add_units(change)

    # --- where an event counts ----------------------------------------------------------------------------------------

    def _cell(self, event: DecisionEvent | CountEvent) -> _Cell:
        """Where ``event`` counts. The events of a series look alike: all but the first take a short way."""
        endpoint = event.endpoint
        if endpoint is None:
            endpoint = self._names.get(event.path)
            if endpoint is None:
                endpoint = self._names[event.path] = collapse(event.path)
        minute = event.at_us // _MINUTE_US
        place = (
            minute,
            event.code,
            event.key_id,
            endpoint,
            event.method,
            event.country,
            event.customer_id,
            event.flags & _KEPT_FLAGS,
            event.tenant_id,
        )
        cell = self._cells.get(place)
        if cell is None:
            series = self._series(event, endpoint)
            sharing = (series.tenant_id, series.environment, minute // _HOUR_MINUTES, series.code != ADMITTED)
            by_address = self._by_address.setdefault(sharing, {})
            cell = self._cells[place] = _Cell(series, minute, Measures(), by_address)
        return cell

    def _series(self, event: DecisionEvent | CountEvent, endpoint: str) -> Series:
        method = event.method or ""
        if method and method not in METHODS:
            method = OTHER
        if endpoint and not event.flags & CATALOGUED and not self._knows(event, method, endpoint):
            endpoint = OTHER
        return Series(
            event.tenant_id,
            environment_of(event.flags),
            Dims.FULL,
            event.code,
            event.key_id or "",
            event.customer_id or "",
            endpoint,
            method,
            _country(event.country),
        )

    def _knows(self, event: DecisionEvent | CountEvent, method: str, endpoint: str) -> bool:
        asked = (event.tenant_id, method, endpoint, event.code == ADMITTED or event.key_id is not None)
        known = self._known.get(asked)
        if known is None:
            known = self._known[asked] = self._known_endpoint(*asked)
        return known


def _add_result(measures: Measures, code: str, result: ResultEvent) -> None:
    measures.results += 1
    if code == ADMITTED:
        measures.add_status(result.status)
    if result.bytes:
        measures.bytes += result.bytes
    latency_us = result.latency_us
    if not 0 <= latency_us <= MAX_VALUE_US:
        latency_us = 0 if latency_us < 0 else MAX_VALUE_US
    measures.latency_us += latency_us
    if measures.latency is None:
        measures.latency = Histogram()
    measures.latency.add(latency_us)


def environment_of(flags: int) -> str:
    """``test`` or ``live``, as an event's flags say."""
    return "test" if flags & TEST else "live"


def as_units(units: Units) -> dict[str, int]:
    """A cost by unit: a plain number is one of requests."""
    return {REQUESTS: units} if isinstance(units, int) else units


def settled(current: Units, settlement: SettlementEvent) -> dict[str, int]:
    """What a check costs after ``settlement``, by unit, where it was counted at ``current`` before."""
    before = as_units(current)
    return dict.fromkeys(before, 0) if settlement.released else {**before, **settlement.units}


def _status_of(code: str) -> int:
    """The status that a refusal has; a code of a newer version is one of the server's."""
    problem = PROBLEMS.get(code)
    return 500 if problem is None else problem.status


def _counted(address: str) -> str:
    """What an address of version 6 is counted by: its network of 64 bits, which is one caller's."""
    parsed = parse_address(address)
    return address if parsed is None else parsed.counted


def _country(country: str | None) -> str:
    """A code of two characters, in capitals; whatever else a check said, as ``OTHER``: it would make a series each."""
    if not country:
        return ""
    return country.upper() if len(country) == _MAX_COUNTRY and country.isascii() and country.isalnum() else OTHER
