"""Sums of the most detailed series become rows of the three rollups, in all grouping sets.

Everything here goes by numbers of series, not by names: an event costs little more in five sets and three lengths of time than
in one. Hours are summed from minutes and days from hours, row by row, histograms side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import add
from typing import Any, Final

from apishield.analytics.histogram import Histogram
from apishield.analytics.rollup import Measures
from apishield.analytics.steps import Step
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
_Sums = dict[tuple[int, int, int], list[Any]]
_Units = dict[tuple[int, int, int, str], int]


class RollupRows:
    """The rows that ``cells`` add to, in the order in which all workers write them.

    A row of hours or days may name a minute within: the statement that writes it goes back to the bucket's start.

    ``cold`` are rows of series that few workers share, ``hot`` those that all add to: they are written last, so that others
    wait least.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        cold: _Sums = {}
        hot: _Sums = {}
        countries: _Sums = {}
        tenants: dict[tuple[int, int, int], Place] = {}
        units: _Units = {}
        for (full, by_key, by_endpoint, by_country, by_tenant), bucket_s, measures in cells:
            _add(cold, units, full, bucket_s, measures)
            _add(cold, units, by_key, bucket_s, measures)
            _add(hot, units, by_endpoint, bucket_s, measures)
            _add(countries, units, by_country, bucket_s, measures)
            tenants[by_country[0], bucket_s, by_country[1]] = by_tenant
            if measures.units:
                _add_units(units, by_tenant, bucket_s, measures.units)
        for place, sums in countries.items():
            set_id, series_id = tenants[place]
            _sum(hot, (set_id, place[1], series_id), sums)
        hot.update(countries)
        self.cold = _levels(cold)
        self.hot = _levels(hot)
        self.units = _unit_rows(units)


def _add(sums: _Sums, units: _Units, place: Place, bucket_s: int, measures: Measures) -> None:
    key = (place[0], bucket_s, place[1])
    latency = measures.latency
    row = sums.get(key)
    if row is None:
        sums[key] = [
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
            None if latency is None else latency.counts.copy(),
        ]
    else:
        row[0] += measures.requests
        row[1] += measures.cost
        row[2] += measures.bytes
        row[3] += measures.results
        row[4] += measures.status_1xx
        row[5] += measures.status_2xx
        row[6] += measures.status_3xx
        row[7] += measures.status_4xx
        row[8] += measures.status_5xx
        row[9] += measures.latency_us
        if latency is not None:
            row[10] = _merged(row[10], latency.counts)
    if measures.units:
        _add_units(units, place, bucket_s, measures.units)


def _sum(sums: _Sums, key: tuple[int, int, int], more: list[Any]) -> None:
    row = sums.get(key)
    if row is None:
        sums[key] = [*more[:-1], None if more[-1] is None else more[-1].copy()]
    else:
        row[:-1] = map(add, row[:-1], more[:-1])
        if more[-1] is not None:
            row[-1] = _merged(row[-1], more[-1])


def _merged(counts: dict[int, int] | None, more: dict[int, int]) -> dict[int, int]:
    if counts is None:
        return more.copy()
    for bucket, count in more.items():
        counts[bucket] = counts.get(bucket, 0) + count
    return counts


def _add_units(sums: _Units, place: Place, bucket_s: int, units: Mapping[str, int]) -> None:
    for unit, cost in units.items():
        key = (place[0], bucket_s, place[1], unit)
        sums[key] = sums.get(key, 0) + cost


def _levels(sums: _Sums) -> dict[Step, list[Row]]:
    minutes = [(*place, *_bounded(sums[place]), _packed(sums[place][-1])) for place in sorted(sums)]
    hours = _summed(minutes, Step.HOUR)
    return {Step.MINUTE: minutes, Step.HOUR: hours, Step.DAY: _summed(hours, Step.DAY)}


def _bounded(sums: list[Any]) -> list[int]:
    numbers = sums[:-1]
    return [min(number, _MOST) for number in numbers] if max(numbers) > _MOST else numbers


def _packed(counts: dict[int, int] | None) -> bytes | None:
    if counts is None:
        return None
    histogram = Histogram()
    histogram.counts = counts
    return histogram.to_bytes()


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
