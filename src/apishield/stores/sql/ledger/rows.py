"""Sums of the most detailed series become rows of the three rollups, in all grouping sets, and of the weeks of keys.

Everything here goes by numbers of series, not by names: an event costs little more in five sets and three lengths of time than
in one. Hours are summed from minutes and days from hours, row by row, histograms side by side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import add
from typing import Final

from apishield.analytics.histogram import Histogram
from apishield.analytics.rollup import Measures
from apishield.analytics.steps import WEEK_S, Step
from apishield.stores.sql.ledger.statements import Row

Place = tuple[int, int]
"""The number of a set, and of a series in it."""
Places = tuple[Place, Place, Place, Place, Place]
"""Where a series counts: by itself, and in the sets by key, endpoint, country and tenant."""
Cell = tuple[Places, int, Measures]
"""Measures of a series in the minute that starts then."""

_MEASURES: Final = slice(3, -1)  # of a row: set, bucket, series, the sums, latency
_MOST: Final = 1 << 50
"""What a row of a minute may add of anything: a day of such minutes still fits into 64 bits."""
_MOST_OF_A_WEEK: Final = 1 << 61
_RowPlace = tuple[int, int, int]  # set, bucket, series
_Sums = tuple[int, int, int, int, int, int, int, int, int, int, Histogram | None]  # in the order of the columns
_Groups = defaultdict[_RowPlace, list[_Sums]]
_Units = dict[tuple[int, int, int, str], int]


class RollupRows:
    """The rows that ``cells`` add to, in the order in which all workers write them.

    A row of hours or days may name a minute within: the statement that writes it goes back to the bucket's start.

    ``cold`` are rows of series that few workers share, ``hot`` those that all add to: they are written last, so that others
    wait least. ``weeks`` are those of keys, without latency.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        cold, hot, countries, tenants = (_Groups(list) for _ in range(4))
        by_tenants: dict[_RowPlace, Place] = {}
        units: _Units = {}
        sets_by_key: set[int] = set()
        for places, bucket_s, measures in cells:
            full, by_key, by_endpoint, by_country, by_tenant = places
            sums = _sums_of(measures)
            cold[full[0], bucket_s, full[1]].append(sums)
            cold[by_key[0], bucket_s, by_key[1]].append(sums)
            sets_by_key.add(by_key[0])
            hot[by_endpoint[0], bucket_s, by_endpoint[1]].append(sums)
            place = (by_country[0], bucket_s, by_country[1])
            countries[place].append(sums)
            by_tenants[place] = by_tenant
            if measures.units:
                for set_id, series_id in places:
                    _add_units(units, (set_id, bucket_s, series_id), measures.units)
        for place, some in countries.items():
            set_id, series_id = by_tenants[place]
            total = _total(some)
            hot[place].append(total)
            tenants[set_id, place[1], series_id].append(total)
        hot |= tenants
        self.cold = _levels(cold)
        self.hot = _levels(hot)
        self.weeks = _weeks([row for row in self.cold[Step.DAY] if row[0] in sets_by_key])
        self.units = _unit_rows(units)


def _sums_of(measures: Measures) -> _Sums:
    return (
        measures.requests,
        measures.cost,
        measures.bytes,
        measures.results,
        measures.status_1xx,
        measures.status_2xx,
        measures.status_3xx,
        measures.status_4xx,
        measures.status_5xx,
        measures.latency_us,
        measures.latency,
    )


def _total(some: list[_Sums]) -> _Sums:
    """The sum of at least one; the histograms of those that are summed stay as they are."""
    if len(some) == 1:
        return some[0]
    *numbers, latencies = zip(*some, strict=True)
    merged: Histogram | None = None
    for latency in filter(None, latencies):
        if merged is None:
            merged = latency.copy()
        else:
            merged.merge(latency)
    return (*map(sum, numbers), merged)  # type: ignore[return-value]  # as many as there were


def _add_units(sums: _Units, place: _RowPlace, units: Mapping[str, int]) -> None:
    for unit, cost in units.items():
        key = (*place, unit)
        sums[key] = sums.get(key, 0) + cost


def _levels(groups: _Groups) -> dict[Step, list[Row]]:
    minutes = [_row(place, _total(groups[place])) for place in sorted(groups)]
    hours = _summed(minutes, Step.HOUR)
    return {Step.MINUTE: minutes, Step.HOUR: hours, Step.DAY: _summed(hours, Step.DAY)}


def _weeks(days: Iterable[Row]) -> list[Row]:
    """Rows of weeks, each at the start of its own."""
    sums: dict[_RowPlace, Row] = {}
    for set_id, bucket_s, series_id, *numbers, _ in days:
        place = (set_id, bucket_s - bucket_s % WEEK_S, series_id)
        before = sums.get(place)
        sums[place] = (
            (*place, *numbers)
            if before is None
            else (*place, *(min(one + more, _MOST_OF_A_WEEK) for one, more in zip(before[3:], numbers, strict=True)))
        )
    return [sums[place] for place in sorted(sums)]


def _row(place: _RowPlace, sums: _Sums) -> Row:
    *numbers, latency = sums
    if max(numbers) > _MOST:
        numbers = [min(number, _MOST) for number in numbers]
    return (*place, *numbers, None if latency is None else latency.to_bytes())


def _summed(rows: list[Row], step: Step) -> list[Row]:
    """Rows of longer buckets; the very same list where no two buckets become one, as in most intakes."""
    seconds = step.seconds
    buckets = {row[1] for row in rows}
    if len({bucket // seconds for bucket in buckets}) == len(buckets):
        return rows
    sums: dict[tuple[int, int, int], Row] = {}
    for row in rows:
        bucket_s = row[1]
        place = (row[0], bucket_s - bucket_s % seconds, row[2])
        before = sums.get(place)
        if before is None:
            sums[place] = place + row[3:]
        else:
            latency = b"".join(part for part in (before[-1], row[-1]) if part)  # side by side, they are their sum
            sums[place] = (*place, *map(add, before[_MEASURES], row[_MEASURES]), latency or None)
    return [sums[place] for place in sorted(sums)]


def _unit_rows(minutes: _Units) -> list[Row]:
    sums: dict[Row, int] = {}
    for (set_id, bucket_s, series_id, unit), cost in minutes.items():
        for step in Step:
            place = (step.value, set_id, bucket_s - bucket_s % step.seconds, series_id, unit)
            sums[place] = sums.get(place, 0) + min(cost, _MOST)
    return [(*place, cost) for place, cost in sorted(sums.items()) if cost]
