"""Sums of rollups. A reader is bound to one tenant and environment when it is made; it can't name another's series.

A question is answered from one grouping set. Where few series are asked for, they are looked up first, and their rows are then
sought one by one; else the set's rows of the period are read in order, summed by series, and only then told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    UnaryExpression,
    any_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.periods import Segment
from apishield.analytics.rollup import ADMITTED, OTHER, Dims
from apishield.analytics.steps import Step
from apishield.core.records import Environment
from apishield.stores.sql.analytics.plan import Column, Group, Plan, Selection, Sums
from apishield.stores.sql.dialects import added_up
from apishield.stores.sql.ledger.statements import is_postgresql
from apishield.stores.sql.ledger.tables import (
    rollup_day,
    rollup_hour,
    rollup_minute,
    rollup_units,
    series,
    series_sets,
)

Order = Literal["requests", "error_rate"]
Groups = Sequence[Group]
_Wanted = tuple[int, Selection, tuple[Column, ...], tuple[Group, ...] | None]

_TABLES = {Step.MINUTE: rollup_minute, Step.HOUR: rollup_hour, Step.DAY: rollup_day}
_STATUSES = ("status_1xx", "status_2xx", "status_3xx", "status_4xx", "status_5xx")
_MEASURES = ("requests", "cost", "bytes", "results", *_STATUSES)
_MOST_SOUGHT_SERIES = 2_000
_MOST_SEEKS = 60_000
_MANY_DAYS_S = 7 * Step.DAY.seconds
_DENSE = 0.7


class RollupReader:
    """Answers plans within one tenant and environment."""

    def __init__(self, connection: AsyncConnection, tenant_id: str, environment: Environment) -> None:
        self.connection = connection
        self._tenant_id = tenant_id
        self._environment = environment
        self._is_postgresql = is_postgresql(connection)
        self._set_ids: dict[str, int] | None = None
        self._ids: dict[_Wanted, list[int] | None] = {}  # a reader has one moment: what was looked up stays true

    async def _set_id(self, dims: Dims) -> int | None:
        """The one place of tenancy: every query below is bound to a set that was found here."""
        if self._set_ids is None:
            columns: list[ColumnElement[Any]] = [series_sets.c.dims, series_sets.c.id]
            if self._is_postgresql:
                # A plan for any period and any number of series suits few: each is planned for its own. Ends with the view.
                columns.append(func.set_config("plan_cache_mode", "force_custom_plan", true()))
            statement = select(*columns).where(
                series_sets.c.tenant_id == self._tenant_id, series_sets.c.environment == self._environment.value
            )
            self._set_ids = {row.dims: row.id for row in await self.connection.execute(statement)}
        return self._set_ids.get(dims.value)

    async def sums(
        self, plan: Plan, by: Sequence[Column] = (), groups: Groups | None = None
    ) -> list[tuple[Group, Sums]]:
        """The sums by ``by``, in order; only of ``groups`` (values of ``by`` without ``middle``) where they are given."""
        source = await self._source(plan, by, groups, _MEASURES)
        if source is None:
            return []
        rows, known = source
        keys = [rows.c.middle if name == "middle" else series.c[name] for name in by]
        counted, allowed = _counted(plan.selection, rows.c), series.c.code == ADMITTED
        columns = [
            added_up(counted),
            added_up(case((allowed, counted), else_=0)),
            added_up(rows.c.cost),
            added_up(rows.c.bytes),
            added_up(case((allowed, rows.c.results), else_=0)),
            added_up(case((allowed, rows.c.status_5xx), else_=0)),
            *(added_up(rows.c[name]) for name in _STATUSES),
        ]
        statement = select(*keys, *columns).join_from(rows, series, series.c.id == rows.c.series_id)
        statement = statement.where(*known).group_by(*keys).order_by(*keys)
        found = (await self.connection.execute(statement)).all()
        return [(tuple(row[: len(by)]), _sums(row[len(by) :])) for row in found if row[len(by)] is not None]

    async def units(
        self, plan: Plan, by: Sequence[Column] = (), groups: Groups | None = None
    ) -> list[tuple[Group, str, int]]:
        """The cost in units other than requests: values of ``by``, unit, cost."""
        source = await self._source(plan, by, groups, ("cost",), units=True)
        if source is None:
            return []
        rows, known = source
        keys = [rows.c.middle if name == "middle" else series.c[name] for name in by]
        statement = select(*keys, rows.c.unit, added_up(rows.c.cost))
        statement = statement.join_from(rows, series, series.c.id == rows.c.series_id).where(*known)
        statement = statement.group_by(*keys, rows.c.unit).order_by(*keys, rows.c.unit)
        found = (await self.connection.execute(statement)).all()
        return [(tuple(row[:-2]), row[-2], int(row[-1])) for row in found]

    async def latencies(
        self, plan: Plan, by: Sequence[Column] = (), groups: Groups | None = None
    ) -> list[tuple[Group, bytes]]:
        """The histograms of latencies of allowed checks, one a row of the rollups, with the values of ``by``."""
        source = await self._source(plan, by, groups, (), latency=True)
        if source is None:
            return []
        rows, known = source
        keys = [rows.c.middle if name == "middle" else series.c[name] for name in by]
        statement = select(*keys, rows.c.latency).join_from(rows, series, series.c.id == rows.c.series_id)
        found = (await self.connection.execute(statement.where(*known, series.c.code == ADMITTED))).all()
        return [(tuple(row[:-1]), bytes(row[-1])) for row in found]

    async def top(self, plan: Plan, by: Sequence[Column], *, order: Order, limit: int) -> list[Group]:
        """The ``limit`` groups that have most of what ``order`` names, most first; equal ones by their names.

        What the ledger put under ``OTHER`` is none of them.
        """
        named = ("requests", "results", "status_5xx") if order == "error_rate" else ("requests",)
        if plan.selection.status is not None:
            named = (*named, f"status_{plan.selection.status}xx")
        source = await self._source(plan, by, None, tuple(dict.fromkeys(named)))
        if source is None:
            return []
        rows, known = source
        keys = [series.c[name] for name in by]
        counted = added_up(_counted(plan.selection, rows.c))
        ranks: list[UnaryExpression[Any]] = [counted.desc()]
        if order == "error_rate":
            allowed = series.c.code == ADMITTED
            errors = added_up(case((allowed, rows.c.status_5xx), else_=0)) * 1.0
            results = added_up(case((allowed, rows.c.results), else_=0))
            ranks.insert(0, func.coalesce(errors / func.nullif(results, 0), -1).desc())
        known = [*known, *(key != OTHER for key in keys)]
        statement = select(*keys).join_from(rows, series, series.c.id == rows.c.series_id).where(*known)
        statement = statement.group_by(*keys).having(counted > 0).order_by(*ranks, *keys).limit(limit)
        return [tuple(row) for row in await self.connection.execute(statement)]

    async def active_keys(self, plan: Plan) -> int:
        """How many keys made a check."""
        set_id = await self._set_id(plan.dims)
        if set_id is not None and await self._is_dense(set_id, plan):
            return await self._keys_there(set_id, plan)
        source = await self._source(plan, (), None, _needed(plan.selection))
        if source is None:
            return 0
        rows, known = source
        active = select(rows.c.series_id).where(_counted(plan.selection, rows.c) > 0)
        statement = select(func.count(series.c.key_id.distinct())).where(
            series.c.id.in_(active), series.c.key_id != "", *known
        )
        return int(await self.connection.scalar(statement) or 0)

    async def _is_dense(self, set_id: int, plan: Plan) -> bool:
        """Whether most keys make checks every day, so that to look for each is quicker than to read all of its days."""
        days = next((part for part in plan.segments if part.step is Step.DAY), None)
        if days is None or days.end_s - days.start_s < _MANY_DAYS_S or plan.selection != Selection():
            return False
        last = (rollup_day.c.set_id == set_id, rollup_day.c.bucket == _late_day(plan))
        there = await self.connection.scalar(select(func.count()).select_from(rollup_day).where(*last))
        known = await self.connection.scalar(select(func.count()).select_from(series).where(series.c.set_id == set_id))
        return bool(there and known) and int(there or 0) >= _DENSE * int(known or 0)

    async def _keys_there(self, set_id: int, plan: Plan) -> int:
        """As ``active_keys``: most are there on one late day, and each of the others is looked for until it is found."""
        columns = rollup_day.c
        late = select(columns.series_id).where(
            columns.set_id == set_id, columns.bucket == _late_day(plan), columns.requests > 0
        )
        seen = late.subquery("seen")
        found = [
            exists().where(
                table.c.set_id == set_id,
                self._among(table.c.bucket, list(range(part.start_s, part.end_s, part.step.seconds))),
                table.c.series_id == series.c.id,
                table.c.requests > 0,
            )
            for part in sorted(plan.segments, key=lambda part: -part.step.seconds)
            for table in (_TABLES[part.step],)
        ]
        statement = select(func.count(series.c.key_id.distinct())).where(
            series.c.set_id == set_id, series.c.key_id != "", or_(seen.c.series_id.is_not(None), *found)
        )
        statement = statement.outerjoin_from(series, seen, seen.c.series_id == series.c.id)
        return int(await self.connection.scalar(statement) or 0)

    async def groups_after(self, plan: Plan, by: Sequence[Column], after: Group | None, limit: int) -> list[Group]:
        """The next ``limit`` groups that ever were, after ``after``, in order."""
        set_id = await self._set_id(plan.dims)
        if set_id is None:
            return []
        keys = [series.c[name] for name in by]
        where = _of_series(set_id, plan.selection)
        if after is not None:
            where.append(tuple_(*keys) > tuple_(*after) if len(keys) > 1 else keys[0] > after[0])
        statement = select(*keys).where(*where).distinct().order_by(*keys).limit(limit)
        return [tuple(row) for row in await self.connection.execute(statement)]

    async def _source(
        self,
        plan: Plan,
        by: Sequence[Column],
        groups: Groups | None,
        measures: Sequence[str],
        *,
        units: bool = False,
        latency: bool = False,
    ) -> tuple[Any, list[ColumnElement[bool]]] | None:
        """The rows of ``plan`` as a subquery, and what must still hold of their series. ``None``: there are none."""
        set_id = await self._set_id(plan.dims)
        if set_id is None or not plan.segments:
            return None
        known = [*_of_series(set_id, plan.selection), *_of_groups(by, groups)]
        sought = None
        if len(known) > 1:
            names = () if groups is None else tuple(name for name in by if name != "middle")
            wanted = (set_id, plan.selection, names, None if groups is None else tuple(groups))
            if wanted not in self._ids:
                self._ids[wanted] = await self._sought(known)
            sought = self._ids[wanted]
        if sought == []:
            return None
        if sought is not None:
            known = [self._among(series.c.id, sought)]
        parts = [
            self._part(
                set_id, segment, measures, sought, by_middle="middle" in by or latency, units=units, latency=latency
            )
            for segment in plan.segments
        ]
        rows = (union_all(*parts) if len(parts) > 1 else parts[0]).subquery("r")
        return rows, known

    async def _sought(self, known: list[ColumnElement[bool]]) -> list[int] | None:
        """The ids of the series, where they are few enough to be sought one by one."""
        statement = select(series.c.id).where(*known).limit(_MOST_SOUGHT_SERIES + 1)
        ids = list(await self.connection.scalars(statement))
        return ids if len(ids) <= _MOST_SOUGHT_SERIES else None

    def _part(
        self,
        set_id: int,
        segment: Segment,
        measures: Sequence[str],
        sought: list[int] | None,
        *,
        by_middle: bool,
        units: bool,
        latency: bool,
    ) -> Select[Any]:
        """The rows of one segment: by series, and by bucket where it is asked for."""
        table = rollup_units if units else _TABLES[segment.step]
        columns = table.c
        where: list[ColumnElement[bool]] = [columns.set_id == set_id]
        if units:
            where.append(columns.step == segment.step.value)
        buckets = list(range(segment.start_s, segment.end_s, segment.step.seconds))
        if sought is not None and len(sought) * len(buckets) <= _MOST_SEEKS:
            where += [self._among(columns.bucket, buckets), self._among(columns.series_id, sought)]
        else:
            where += [columns.bucket >= segment.start_s, columns.bucket < segment.end_s]
            where += [self._among(columns.series_id, sought)] if sought is not None else []
        own = [columns.series_id] + ([columns.unit] if units else [])
        if by_middle:
            more = [columns[name] for name in measures]
            if latency:
                more.append(columns.latency)
                where.append(columns.latency.is_not(None))
            middle = (columns.bucket + segment.step.seconds // 2).label("middle")
            return select(*own, middle, *more).where(*where)
        return select(*own, *(added_up(columns[name]).label(name) for name in measures)).where(*where).group_by(*own)

    def _among(self, column: ColumnElement[int], values: list[int]) -> ColumnElement[bool]:
        """``column`` has one of ``values``: one parameter where the database takes lists, as each costs its time."""
        if self._is_postgresql:
            return column == any_(literal(values, ARRAY(BigInteger)))
        return column.in_(values)


def _late_day(plan: Plan) -> int:
    """The start of the last day but one: the last may be today, which has only begun."""
    days = next(part for part in plan.segments if part.step is Step.DAY)
    return max(days.start_s, days.end_s - 2 * Step.DAY.seconds)


def _of_series(set_id: int, selection: Selection) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [series.c.set_id == set_id]
    if selection.codes is not None:
        conditions.append(series.c.code.in_(sorted(selection.codes)))
    conditions += [series.c[name] == value for name, value in selection.columns().items()]
    return conditions


def _of_groups(by: Sequence[Column], groups: Groups | None) -> list[ColumnElement[bool]]:
    names = [name for name in by if name != "middle"]
    if groups is None or not names:
        return []
    if len(names) == 1:
        return [series.c[names[0]].in_([group[0] for group in groups])]
    return [tuple_(*(series.c[name] for name in names)).in_(list(groups))]


def _needed(selection: Selection) -> tuple[str, ...]:
    return ("requests",) if selection.status is None else (f"status_{selection.status}xx",)


def _counted(selection: Selection, columns: Any) -> ColumnElement[int]:
    """What counts as a request: all of them, or those that ended with the status that is asked for."""
    counted: ColumnElement[int] = columns[_needed(selection)[0]]
    return counted


def _sums(row: Sequence[Any]) -> Sums:
    requests, allowed, cost, size, results, errors, *statuses = [int(value) if value else 0 for value in row]
    one, two, three, four, five = statuses
    return Sums(requests, allowed, cost, size, results, errors, (one, two, three, four, five))
