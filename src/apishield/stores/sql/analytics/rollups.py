"""Sums of rollups. A reader is bound to one tenant and environment when it is made; it can't name another's series.

A question is answered from one grouping set. Where few series are asked for, they are looked up first, and their rows are then
sought one by one; else the set's rows of the period are read in order, summed by series, and only then told apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Subquery, UnaryExpression, case, exists, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.rollup import ADMITTED
from apishield.analytics.steps import Step
from apishield.core.records import Environment
from apishield.stores.sql.analytics.plan import Cell, Column, Group, Plan, Selection, Sums
from apishield.stores.sql.analytics.sources import TABLES, Groups, Source, Sources, of_series
from apishield.stores.sql.dialects import added_up, among, joined
from apishield.stores.sql.ledger.tables import rollup_day, series

Order = Literal["requests", "error_rate"]

_STATUSES: Final = ("status_1xx", "status_2xx", "status_3xx", "status_4xx", "status_5xx")
_MEASURES: Final = ("requests", "cost", "bytes", "results", *_STATUSES)
_MANY_DAYS_S: Final = 7 * Step.DAY.seconds
_DENSE: Final = 0.7


class RollupReader:
    """Answers plans within one tenant and environment."""

    def __init__(self, connection: AsyncConnection, tenant_id: str, environment: Environment) -> None:
        self.connection = connection
        self._sources = Sources(connection, tenant_id, environment)

    async def sums(
        self, plan: Plan, by: Sequence[Column] = (), groups: Groups | None = None
    ) -> list[tuple[Group, Sums]]:
        """The sums by ``by``, in order; only of ``groups`` (values of ``by`` without ``place``) where they are given."""
        source = await self._sources.rows(plan, by, groups, _MEASURES)
        if source is None:
            return []
        found = await self._summed(source, plan.selection, _keys(source[0], by))
        return [(tuple(row[: len(by)]), _sums(row[len(by) :])) for row in found if row[len(by)] is not None]

    async def figures(
        self, plan: Plan, by: Sequence[Column] = (), groups: Groups | None = None
    ) -> tuple[dict[Group, Sums], list[tuple[Cell, bytes]]]:
        """As ``sums``, and the histograms of latencies of allowed checks, those of a cell one after the other."""
        source = await self._sources.rows(plan, by, groups, (*_MEASURES, "latency"), whole=True)
        if source is None:
            return {}, []
        rows = source[0]
        keys = [*_keys(rows, by), *([rows.c.out_of] if "place" in by else [])]
        latency = joined(case((series.c.code == ADMITTED, rows.c.latency)))
        found = await self._summed(source, plan.selection, keys, latency)
        first, last = len(by), len(keys)
        cells = [
            (_cell(row[:first], row[first:last]), _sums(row[last:-1]), bytes(row[-1] or b""))
            for row in found
            if row[last] is not None
        ]
        latencies = [(cell, histograms) for cell, _, histograms in cells if histograms]
        return _by_group((cell, sums) for cell, sums, _ in cells), latencies

    async def _summed(
        self, source: Source, selection: Selection, keys: Sequence[ColumnElement[Any]], *more: ColumnElement[Any]
    ) -> Sequence[Any]:
        """The rows of ``source`` by ``keys``, in order: what ``_sums`` reads, and ``more``."""
        rows, known = source
        counted, allowed = _counted(selection, rows.c), series.c.code == ADMITTED
        columns = [
            added_up(counted),
            added_up(case((allowed, counted), else_=0)),
            added_up(rows.c.cost),
            added_up(rows.c.bytes),
            added_up(case((allowed, rows.c.results), else_=0)),
            added_up(case((allowed, rows.c.status_5xx), else_=0)),
            *(added_up(rows.c[name]) for name in _STATUSES),
        ]
        statement = select(*keys, *columns, *more).join_from(rows, series, series.c.id == rows.c.series_id)
        statement = statement.where(*known).group_by(*keys).order_by(*keys)
        return (await self.connection.execute(statement)).all()

    async def units(
        self, plan: Plan, by: Sequence[Column] = (), groups: Groups | None = None
    ) -> list[tuple[Group, str, int]]:
        """The cost in units other than requests: values of ``by``, unit, cost. What comes to 0 is left away."""
        source = await self._sources.units(plan, by, groups)
        if source is None:
            return []
        rows, known = source
        keys, cost = _keys(rows, by), added_up(rows.c.cost)
        statement = select(*keys, rows.c.unit, cost).having(cost > 0)
        statement = statement.join_from(rows, series, series.c.id == rows.c.series_id).where(*known)
        statement = statement.group_by(*keys, rows.c.unit).order_by(*keys, rows.c.unit)
        found = (await self.connection.execute(statement)).all()
        return [(tuple(row[:-2]), row[-2], int(row[-1])) for row in found]

    async def top(self, plan: Plan, by: Sequence[Column], *, order: Order, limit: int) -> list[Group]:
        """The ``limit`` groups that have most of what ``order`` names, most first; equal ones by their names."""
        named = ("requests", "results", "status_5xx") if order == "error_rate" else ("requests",)
        source = await self._sources.rows(plan, by, None, tuple(dict.fromkeys((*named, _needed(plan.selection)))))
        if source is None:
            return []
        rows, known = source
        keys = _keys(rows, by)
        counted = added_up(_counted(plan.selection, rows.c))
        ranks: list[UnaryExpression[Any]] = [counted.desc()]
        if order == "error_rate":
            allowed = series.c.code == ADMITTED
            errors = added_up(case((allowed, rows.c.status_5xx), else_=0)) * 1.0
            results = added_up(case((allowed, rows.c.results), else_=0))
            ranks.insert(0, func.coalesce(errors / func.nullif(results, 0), -1).desc())
        statement = select(*keys).join_from(rows, series, series.c.id == rows.c.series_id).where(*known)
        statement = statement.group_by(*keys).having(counted > 0).order_by(*ranks, *keys).limit(limit)
        return [tuple(row) for row in await self.connection.execute(statement)]

    async def active_keys(self, plan: Plan) -> int:
        """How many keys made a check."""
        set_id = await self._sources.set_id(plan.dims)
        if set_id is not None and await self._is_dense(set_id, plan):
            return await self._keys_there(set_id, plan)
        source = await self._sources.rows(plan, (), None, (_needed(plan.selection),))
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
                among(self.connection, table.c.bucket, list(range(part.start_s, part.end_s, part.step.seconds))),
                table.c.series_id == series.c.id,
                table.c.requests > 0,
            )
            for part in sorted(plan.segments, key=lambda part: -part.step.seconds)
            for table in (TABLES[part.step],)
        ]
        statement = select(func.count(series.c.key_id.distinct())).where(
            series.c.set_id == set_id, series.c.key_id != "", or_(seen.c.series_id.is_not(None), *found)
        )
        statement = statement.outerjoin_from(series, seen, seen.c.series_id == series.c.id)
        return int(await self.connection.scalar(statement) or 0)

    async def groups_after(self, plan: Plan, by: Sequence[Column], after: Group | None, limit: int) -> list[Group]:
        """The next ``limit`` groups that ever were, after ``after``, in order."""
        set_id = await self._sources.set_id(plan.dims)
        if set_id is None:
            return []
        keys = [series.c[name] for name in by]
        where = of_series(set_id, plan.selection)
        if after is not None:
            where.append(tuple_(*keys) > tuple_(*after) if len(keys) > 1 else keys[0] > after[0])
        statement = select(*keys).where(*where).distinct().order_by(*keys).limit(limit)
        return [tuple(row) for row in await self.connection.execute(statement)]


def _late_day(plan: Plan) -> int:
    """The start of the last day but one: the last may be today, which has only begun."""
    days = next(part for part in plan.segments if part.step is Step.DAY)
    return max(days.start_s, days.end_s - 2 * Step.DAY.seconds)


def _keys(rows: Subquery, by: Sequence[Column]) -> list[ColumnElement[Any]]:
    return [rows.c.place if name == "place" else series.c[name] for name in by]


def _cell(group: Sequence[Any], out_of: Sequence[int | None]) -> Cell:
    place = out_of[0] if out_of else None
    return Cell(tuple(group), None if place is None else (place, *group[1:]))


def _by_group(cells: Iterable[tuple[Cell, Sums]]) -> dict[Group, Sums]:
    """The sums of each group: with what is moved into it, without what is moved out of it. They may be those of a cell."""
    found: dict[Group, Sums] = defaultdict(Sums)
    for cell, sums in cells:
        if cell.out_of is not None:
            found[cell.out_of].add(sums, -1)
        if cell.group in found:
            found[cell.group].add(sums)
        else:
            found[cell.group] = sums
    for sums in found.values():
        sums.cost, sums.bytes = max(0, sums.cost), max(0, sums.bytes)
    return dict(found)


def _needed(selection: Selection) -> str:
    return "requests" if selection.status is None else f"status_{selection.status}xx"


def _counted(selection: Selection, columns: Any) -> ColumnElement[int]:
    """What counts as a request: all of them, or those that ended with the status that is asked for."""
    counted: ColumnElement[int] = columns[_needed(selection)]
    return counted


def _sums(row: Sequence[Any]) -> Sums:
    """Sums of a row. Where what is moved is already taken away: less than none is none, as of a cost or bytes so large that
    the sum of a day no longer grew with its hours.
    """
    requests, allowed, cost, size, results, errors, *statuses = [max(0, int(value)) if value else 0 for value in row]
    one, two, three, four, five = statuses
    return Sums(requests, allowed, cost, size, results, errors, (one, two, three, four, five))
