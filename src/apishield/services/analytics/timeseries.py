"""Figures step by step: of all, or of the busiest groups and the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from apishield.analytics.steps import Step
from apishield.services.analytics.breakdowns import rest
from apishield.services.analytics.figures import Figures, figures_of, only_counts
from apishield.services.analytics.planner import Covered, planned, planned_steps, starts_of
from apishield.services.analytics.questions import Question
from apishield.stores.sql.analytics.plan import Column, Group, Plan, Sums
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.analytics.sources import Groups

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
    if group_by is None:
        total = await _points(reader, planned_steps(question, (), step, starts_s), (), None)
        return Timeseries(covered, step, starts_s, [Line(None, total.get(()) or _nothing(starts_s))], None)
    by = GROUPINGS[group_by]
    top = await reader.top(whole, by, order="requests", limit=limit)
    found = await _points(reader, planned_steps(question, by, step, starts_s), by, top) if top else {}
    lines = [Line(group, found.get(group) or _nothing(starts_s)) for group in top]
    return Timeseries(covered, step, starts_s, lines, await _beside(reader, question, step, starts_s, lines))


async def _beside(
    reader: RollupReader, question: Question, step: Step, starts_s: Sequence[int], lines: Sequence[Line]
) -> Line | None:
    """What is in none of ``lines``: sums only, as latencies can't be taken apart."""
    points = _nothing(starts_s)
    for (place,), total in await reader.sums(planned_steps(question, (), step, starts_s), ("place",)):
        known = total if question.selection.status is None else only_counts(total)
        left = rest(known, [line.points[int(place)].sums for line in lines])
        points[int(place)] = Figures(left or Sums())
    return Line(None, points) if any(point.sums.requests for point in points) else None


async def _points(
    reader: RollupReader, plan: Plan, by: Sequence[Column], groups: Groups | None
) -> dict[Group, list[Figures]]:
    """The figures by group, one for each step."""
    found: dict[Group, list[Figures]] = defaultdict(lambda: _nothing(plan.starts_s))
    for (place, *group), figures in (await figures_of(reader, plan, ("place", *by), groups)).items():
        found[tuple(group)][int(place)] = figures
    return dict(found)


def _nothing(starts_s: Sequence[int]) -> list[Figures]:
    return [Figures.nothing() for _ in starts_s]
