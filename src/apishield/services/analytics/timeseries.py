"""Figures step by step: of all, or of the busiest groups and the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from apishield.analytics.histogram import Histogram
from apishield.analytics.reports import latency
from apishield.analytics.steps import Step
from apishield.services.analytics.breakdowns import rest
from apishield.services.analytics.figures import Figures, merged, only_counts
from apishield.services.analytics.planner import Covered, place_of, planned, planned_steps, starts_of
from apishield.services.analytics.questions import Question
from apishield.stores.sql.analytics.plan import Column, Group, Plan, Sums
from apishield.stores.sql.analytics.rollups import Groups, RollupReader

GroupBy = Literal["key", "customer", "endpoint", "method", "country", "outcome"]

GROUPINGS: Final[Mapping[GroupBy, tuple[Column, ...]]] = {
    "key": ("key_id",),
    "customer": ("customer_id",),
    "endpoint": ("endpoint", "method"),
    "method": ("method",),
    "country": ("country",),
    "outcome": ("code",),
}


class Line(msgspec.Struct, frozen=True):
    """The figures of one group, one for each step; ``group`` is ``None`` for all, or for what is beside the groups."""

    group: Group | None
    points: Sequence[Figures]


class Timeseries(msgspec.Struct, frozen=True):
    """Lines over the same steps, which begin at ``starts_s`` (epoch seconds)."""

    covered: Covered
    step: Step
    starts_s: Sequence[int]
    lines: Sequence[Line]
    other: Line | None


async def series_over_time(
    reader: RollupReader, question: Question, step: Step, group_by: GroupBy | None, *, limit: int
) -> Timeseries:
    """The figures of each ``step`` of the question's period: one line, or one for each of the ``limit`` busiest groups."""
    starts_s = starts_of(question, step)
    whole, covered = planned(question, GROUPINGS[group_by] if group_by else ())
    total = await _points(reader, planned_steps(question, (), starts_s), (), None, starts_s)
    if group_by is None:
        return Timeseries(covered, step, starts_s, [Line(None, total.get((), _nothing(starts_s)))], None)
    by = GROUPINGS[group_by]
    top = await reader.top(whole, by, order="requests", limit=limit)
    plan = planned_steps(question, by, starts_s)
    found = await _points(reader, plan, by, top, starts_s) if top else {}
    lines = [Line(group, found.get(group, _nothing(starts_s))) for group in top]
    return Timeseries(covered, step, starts_s, lines, _beside(total.get((), []), lines))


def _beside(total: Sequence[Figures], lines: Sequence[Line]) -> Line | None:
    """What of ``total`` is in none of ``lines``: sums only, as latencies can't be taken apart."""
    points = [
        Figures(rest(whole.sums, [line.points[place].sums for line in lines]) or Sums())
        for place, whole in enumerate(total)
    ]
    return Line(None, points) if any(point.sums.requests for point in points) else None


async def _points(
    reader: RollupReader, plan: Plan, by: Sequence[Column], groups: Groups | None, starts_s: Sequence[int]
) -> dict[Group, list[Figures]]:
    """The figures by group, one for each step."""
    places: dict[Group, dict[int, Sums]] = defaultdict(dict)
    columns: tuple[Column, ...] = ("middle", *by)
    for (middle, *group), sums in await reader.sums(plan, columns, groups):
        place = place_of(int(middle), starts_s)
        places[tuple(group)].setdefault(place, Sums()).add(sums)
    if plan.selection.status is not None:
        counts = {group: {place: only_counts(sums) for place, sums in at.items()} for group, at in places.items()}
        return {group: _filled(at, {}, {}, starts_s) for group, at in counts.items()}
    units: dict[Group, dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for (middle, *group), unit, cost in await reader.units(plan, columns, groups):
        costs = units[tuple(group)][place_of(int(middle), starts_s)]
        costs[unit] = costs.get(unit, 0) + cost
    rows = [
        ((place_of(int(middle), starts_s), *group), blob)
        for (middle, *group), blob in await reader.latencies(plan, columns, groups)
    ]
    latencies: dict[Group, dict[int, Histogram]] = defaultdict(dict)
    for (at, *group), histogram in (await merged(rows)).items():
        latencies[tuple(group)][int(at)] = histogram
    return {
        group: _filled(at, units.get(group, {}), latencies.get(group, {}), starts_s) for group, at in places.items()
    }


def _filled(
    sums: Mapping[int, Sums],
    units: Mapping[int, dict[str, int]],
    latencies: Mapping[int, Histogram],
    starts_s: Sequence[int],
) -> list[Figures]:
    return [
        Figures(sums[place], units.get(place, {}), latency(latencies.get(place)))
        if place in sums
        else Figures.nothing()
        for place in range(len(starts_s))
    ]


def _nothing(starts_s: Sequence[int]) -> list[Figures]:
    return [Figures.nothing() for _ in starts_s]
