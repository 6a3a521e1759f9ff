"""Sums by series become rows of the three rollups: hours are summed from minutes, days from hours, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import add
from typing import Any, Final

from apishield.analytics.rollup import Dims, Measures, Series
from apishield.analytics.steps import Step
from apishield.stores.sql.ledger.statements import Row

_HOT: Final = frozenset({Dims.ENDPOINT, Dims.COUNTRY, Dims.TENANT})
_MEASURES: Final = slice(3, -1)  # of a row: set, bucket, series, the sums, latency

Sums = Mapping[tuple[Series, int], Measures]
Ids = Callable[[Series], tuple[int, int]]


class RollupRows:
    """The rows that some sums add to, in the order in which all workers write them.

    ``cold`` are those of series that few workers share, ``hot`` those that all add to: written last, waited for least.
    """

    def __init__(self, sums: Sums, ids: Ids) -> None:
        self.cold: dict[Step, list[Row]] = {}
        self.hot: dict[Step, list[Row]] = {}
        self.units: list[Row] = []
        minutes: tuple[list[Row], list[Row]] = ([], [])
        units: list[Row] = []
        for (series, bucket_s), measures in sums.items():
            set_id, series_id = ids(series)
            minutes[series.dims in _HOT].append(_row(set_id, bucket_s, series_id, measures))
            units.extend((set_id, bucket_s, series_id, unit, cost) for unit, cost in measures.units.items() if cost)
        for rows, levels in zip(minutes, (self.cold, self.hot), strict=True):
            rows.sort(key=_key)
            levels[Step.MINUTE] = rows
            levels[Step.HOUR] = _summed(rows, Step.HOUR)
            levels[Step.DAY] = _summed(levels[Step.HOUR], Step.DAY)
        self.units = _unit_rows(units)


def _row(set_id: int, bucket_s: int, series_id: int, measures: Measures) -> Row:
    latency = measures.latency
    return (
        set_id,
        bucket_s,
        series_id,
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
        None if latency is None else latency.to_bytes(),
    )


def _key(row: Row) -> Any:
    return row[:3]


def _summed(rows: list[Row], step: Step) -> list[Row]:
    seconds = step.seconds
    sums: dict[tuple[int, int, int], Row] = {}
    for row in rows:
        set_id, bucket_s, series_id = row[:3]
        bucket_s -= bucket_s % seconds
        place = (set_id, bucket_s, series_id)
        before = sums.get(place)
        if before is None:
            sums[place] = place + row[3:]
        else:
            latency = b"".join(part for part in (before[-1], row[-1]) if part)  # side by side, they are their sum
            sums[place] = (*place, *map(add, before[_MEASURES], row[_MEASURES]), latency or None)
    return [sums[place] for place in sorted(sums)]


def _unit_rows(minutes: list[Row]) -> list[Row]:
    sums: dict[Row, int] = {}
    for set_id, bucket_s, series_id, unit, cost in minutes:
        for step in Step:
            place = (step.value, set_id, bucket_s - bucket_s % step.seconds, series_id, unit)
            sums[place] = sums.get(place, 0) + cost
    return [(*place, cost) for place, cost in sorted(sums.items())]
