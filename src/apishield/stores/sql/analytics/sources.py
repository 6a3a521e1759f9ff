"""Which rows of the rollups a question reads: those of its set and buckets; where few series are asked for, only theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Subquery,
    Table,
    case,
    func,
    literal,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.periods import Segment, runs
from apishield.analytics.rollup import ADMITTED, Dims
from apishield.analytics.steps import WEEK_S, Step
from apishield.core.records import Environment
from apishield.stores.sql.analytics.plan import Column, Group, Plan, Selection
from apishield.stores.sql.dialects import added_up, among, joined
from apishield.stores.sql.ledger.statements import is_postgresql
from apishield.stores.sql.ledger.tables import (
    rollup_day,
    rollup_hour,
    rollup_minute,
    rollup_units,
    rollup_week,
    series,
    series_sets,
)

_ANY_UNITS: Final = func.coalesce(
    *(
        select(func.min(rollup_units.c.bucket))
        .where(rollup_units.c.step == step.value, rollup_units.c.set_id == series_sets.c.id)
        .correlate(series_sets)
        .scalar_subquery()
        for step in (Step.DAY, Step.HOUR, Step.MINUTE)  # a day's may have come to nothing where its minutes' did not
    )
).label("any_units")
"""A bucket in which a set has costs in units other than requests, or NULL: most tenants have none.

The first bucket of a step is found in the index, whatever the planner knows; with ``exists`` it would read the table of all
tenants where it takes such rows for frequent.
"""

Groups = Sequence[Group]
Source = tuple[Subquery, list[ColumnElement[bool]]]
"""The rows, and what must still hold of their series."""

TABLES: Final = {Step.MINUTE: rollup_minute, Step.HOUR: rollup_hour, Step.DAY: rollup_day}
_MOST_SOUGHT_SERIES: Final = 2_000
_MOST_SEEKS: Final = 60_000
_MOST_BETWEEN: Final = 2
"""Ids are read from the first to the last where that is at most so many times as many as are sought."""

_Wanted = tuple[int, Selection, tuple[Column, ...], tuple[Group, ...] | None]


class Sources:
    """Finds the rows for plans within one tenant and environment."""

    def __init__(self, connection: AsyncConnection, tenant_id: str, environment: Environment) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self._environment = environment
        self._is_postgresql = is_postgresql(connection)
        self._set_ids: dict[str, int] | None = None
        self._with_units: set[int] = set()
        # By id, of what was looked for; a reader has one moment: what was looked up stays true.
        self._codes: dict[_Wanted, dict[int, str] | None] = {}

    async def set_id(self, dims: Dims) -> int | None:
        """The one place of tenancy: every query of a reader is bound to a set that was found here."""
        if self._set_ids is None:
            columns: list[ColumnElement[Any]] = [series_sets.c.dims, series_sets.c.id, _ANY_UNITS]
            if self._is_postgresql:
                # Both end with the view. A plan for any period and any number of series suits few: each is planned for its own.
                columns.append(func.set_config("plan_cache_mode", "force_custom_plan", true()))
                # Sums over several tables are thousands of rows where the planner takes them for 200, and would seek the
                # series of each; all series that it can be were found by an index anyway.
                columns.append(func.set_config("enable_nestloop", "off", true()))
            statement = select(*columns).where(
                series_sets.c.tenant_id == self._tenant_id, series_sets.c.environment == self._environment.value
            )
            found = (await self._connection.execute(statement)).all()
            self._set_ids = {row.dims: row.id for row in found}
            self._with_units = {row.id for row in found if row.any_units is not None}
        return self._set_ids.get(dims.value)

    async def rows(
        self, plan: Plan, by: Sequence[Column], groups: Groups | None, measures: Sequence[str], *, whole: bool = False
    ) -> Source | None:
        """The sums of ``measures`` by series, or, where places are told apart, the rows as they are.

        What is moved from place to place is a row with ``out_of``, the place that it is moved out of, if ``whole`` is true;
        else two, of which one takes away there what the other adds. ``None``: there are none.
        """
        found = await self._which(plan, by, groups)
        if found is None:
            return None
        set_id, sought, known = found
        parts = []
        if "place" not in by:
            for table, seconds, segments in _summable(plan, measures):
                columns = table.c
                where = [columns.set_id == set_id, *self._within(columns, seconds, segments, sought)]
                parts.append(select(columns.series_id, *(columns[name] for name in measures)).where(*where))
            rows = _together(parts, "b")
            sums = [(joined if name == "latency" else added_up)(rows.c[name]).label(name) for name in measures]
            return select(rows.c.series_id, *sums).group_by(rows.c.series_id).subquery("r"), known
        for step, segments, moved in _parts(plan, by):
            columns = TABLES[step].c
            where = [columns.set_id == set_id, *self._within(columns, step.seconds, segments, sought)]
            places = _places(columns.bucket, step, plan.starts_s, moved=moved) if "place" in by else []
            found_rows = select(columns.series_id, *places, *(columns[name] for name in measures)).where(*where)
            parts += _in_and_out(found_rows, measures) if moved and not whole else [found_rows]
        return _together(parts), known

    async def units(self, plan: Plan, by: Sequence[Column], groups: Groups | None) -> Source | None:
        """The rows of units other than requests; ``None`` where there are none."""
        if await self.set_id(plan.dims) not in self._with_units:
            return None
        found = await self._which(plan, by, groups, admitted=True)
        if found is None:
            return None
        set_id, sought, known = found
        columns = rollup_units.c
        parts: list[Select[Any]] = []
        for step, segments, moved in _parts(plan, by):
            where = [columns.step == step.value, columns.set_id == set_id]
            where += self._within(columns, step.seconds, segments, sought)
            places = _places(columns.bucket, step, plan.starts_s, moved=moved) if "place" in by else []
            rows = select(columns.series_id, *places, columns.unit, columns.cost).where(*where)
            parts += _in_and_out(rows, ["cost"]) if moved else [rows]
        return _together(parts), known

    async def _which(
        self, plan: Plan, by: Sequence[Column], groups: Groups | None, *, admitted: bool = False
    ) -> tuple[int, list[int] | None, list[ColumnElement[bool]]] | None:
        """The set, the ids of its series where they are few, and what must hold of a series.

        ``admitted``: of those that are few, only such as can have costs. To seek rows that are not there takes as long as
        to find them.
        """
        set_id = await self.set_id(plan.dims)
        if set_id is None or not plan.segments:
            return None
        known = [*of_series(set_id, plan.selection), *self._of_groups(by, groups)]
        if len(known) == 1:
            return set_id, None, known
        names = () if groups is None else tuple(name for name in by if name != "place")
        wanted = (set_id, plan.selection, names, None if groups is None else tuple(groups))
        if wanted not in self._codes:
            statement = select(series.c.id, series.c.code).where(*known).limit(_MOST_SOUGHT_SERIES + 1)
            codes = dict((await self._connection.execute(statement)).all())
            self._codes[wanted] = codes if len(codes) <= _MOST_SOUGHT_SERIES else None
        found = self._codes[wanted]
        if found is None:
            return set_id, None, known
        sought = [number for number, code in found.items() if code == ADMITTED or not admitted]
        return (set_id, sought, [among(self._connection, series.c.id, sought)]) if sought else None

    def _within(
        self, columns: Any, seconds: int, segments: Sequence[Segment], sought: list[int] | None
    ) -> list[ColumnElement[bool]]:
        """Only the buckets of ``segments``, all as long as that, and only rows of the series that are sought."""
        buckets = [bucket_s for part in segments for bucket_s in range(part.start_s, part.end_s, seconds)]
        if sought is not None and len(sought) * len(buckets) <= _MOST_SEEKS:
            return [among(self._connection, columns.bucket, buckets), self._of_ids(columns.series_id, sought)]
        where = [among(self._connection, columns.bucket, buckets)]
        if len(segments) == 1:
            where = [columns.bucket >= segments[0].start_s, columns.bucket < segments[0].end_s]
        return where if sought is None else [*where, among(self._connection, columns.series_id, sought)]

    def _of_ids(self, column: ColumnElement[int], sought: list[int]) -> ColumnElement[bool]:
        """Rows of these series; where they lie close together, those between them too, for to go on is less than to seek."""
        first, last = min(sought), max(sought)
        if last - first < _MOST_BETWEEN * len(sought):
            return column.between(first, last)
        return among(self._connection, column, sought)

    def _of_groups(self, by: Sequence[Column], groups: Groups | None) -> list[ColumnElement[bool]]:
        names = [name for name in by if name != "place"]
        if groups is None or not names:
            return []
        if len(names) == 1:
            return [among(self._connection, series.c[names[0]], [group[0] for group in groups])]
        return [tuple_(*(series.c[name] for name in names)).in_(list(groups))]


def of_series(set_id: int, selection: Selection) -> list[ColumnElement[bool]]:
    """What must hold of the series of a set that are selected."""
    conditions: list[ColumnElement[bool]] = [series.c.set_id == set_id]
    if selection.codes is not None:
        conditions.append(series.c.code.in_(sorted(selection.codes)))
    conditions += [series.c[name] == value for name, value in selection.columns().items()]
    return conditions


def _by_step(parts: Sequence[Segment]) -> list[tuple[Step, list[Segment]]]:
    """The segments of each table: there may be many, as at the midnights of a zone that is hours off."""
    return [(step, found) for step in Step if (found := [part for part in parts if part.step is step])]


def _parts(plan: Plan, by: Sequence[Column]) -> list[tuple[Step, list[Segment], bool]]:
    """The segments of each table, and whether their rows are moved; none are where places are not told apart."""
    moves = _by_step(plan.moves) if "place" in by else []
    return [
        *((step, segments, False) for step, segments in _by_step(plan.segments)),
        *((step, segments, True) for step, segments in moves),
    ]


def _summable(plan: Plan, measures: Sequence[str]) -> list[tuple[Table, int, list[Segment]]]:
    """The segments of each table, and how long its buckets are, for sums that tell no time apart: weeks where they are kept."""
    found = [(TABLES[step], step.seconds, segments) for step, segments in _by_step(plan.segments)]
    if plan.dims is not Dims.KEY or not all(name in rollup_week.c for name in measures):
        return found
    days = [part for part in plan.segments if part.step is Step.DAY]
    within = [(part.start_s + -part.start_s % WEEK_S, part.end_s - part.end_s % WEEK_S, part) for part in days]
    weeks = [Segment(Step.DAY, first_s, last_s) for first_s, last_s, _ in within if first_s < last_s]
    if not weeks:
        return found
    around = [
        Segment(Step.DAY, start_s, end_s)
        for first_s, last_s, part in within
        for start_s, end_s in (
            ((part.start_s, first_s), (last_s, part.end_s)) if first_s < last_s else ((part.start_s, part.end_s),)
        )
        if start_s < end_s
    ]
    shorter = [each for each in found if each[0] is not rollup_day]
    return [*shorter, *([(rollup_day, Step.DAY.seconds, around)] if around else []), (rollup_week, WEEK_S, weeks)]


def _together(parts: Sequence[Select[Any]], name: str = "r") -> Subquery:
    return (union_all(*parts) if len(parts) > 1 else parts[0]).subquery(name)


def _places(
    bucket: ColumnElement[int], step: Step, starts_s: Sequence[int], *, moved: bool
) -> list[ColumnElement[int]]:
    """The ``place`` in which a bucket counts, and ``out_of``, where it would with the next longer one around it, or NULL."""
    around = step.around
    out_of = _place(bucket - bucket % around.seconds, around, starts_s) if moved else literal(None, BigInteger)
    return [_place(bucket, step, starts_s).label("place"), out_of.label("out_of")]


def _in_and_out(rows: Select[Any], measures: Sequence[str]) -> list[Select[Any]]:
    """The sums of ``rows`` that are moved, twice: as they count in ``place``, and as they are taken away in ``out_of``."""
    moved = rows.cte()
    names = [name for name in moved.c.keys() if name not in measures]  # noqa: SIM118  columns, not names, else
    keys = [moved.c[name] for name in names]
    sums = select(*keys, *(added_up(moved.c[name]).label(name) for name in measures)).group_by(*keys).cte()
    there = [sums.c[{"place": "out_of"}.get(name, name)].label(name) for name in names]
    return [select(*sums.c), select(*there, *((-sums.c[name]).label(name) for name in measures))]


def _place(bucket: ColumnElement[int], step: Step, starts_s: Sequence[int]) -> ColumnElement[int]:
    """In which of the steps a bucket counts; as ``periods.place``, from the few runs of steps that are equally long."""
    half_s, last = step.seconds // 2, len(starts_s) - 1
    cases: list[tuple[ColumnElement[bool], Any]] = [(bucket >= starts_s[last] - half_s, literal(last, BigInteger))]
    for run in reversed(runs(starts_s)):
        start_s = run.start_s - half_s
        cases.append((bucket >= start_s, (bucket - start_s) // run.seconds + run.first))
    return case(*cases, else_=literal(0, BigInteger))
