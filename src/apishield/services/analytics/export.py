"""Usage to take away: rows of any number, page by page, each page a short look into the database of its own.

So an export of a million rows holds no connection while its reader is slow, and never more than a page in memory. Its rows are
ordered; a key that is made meanwhile may be missed, a sum is never counted twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from apishield.analytics.steps import Step
from apishield.services.analytics.planner import planned, planned_steps, starts_of
from apishield.services.analytics.questions import Question
from apishield.stores.sql.analytics.names import NameReader
from apishield.stores.sql.analytics.plan import Column, Group, Plan, Sums
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.database import Database

Subject = Literal["key", "customer", "endpoint"]

SUBJECTS: Final[Mapping[Subject, tuple[Column, ...]]] = {
    "key": ("key_id",),
    "customer": ("customer_id",),
    "endpoint": ("endpoint", "method"),
}
_LABELS: Final[Mapping[Subject, tuple[str, ...]]] = {
    "key": ("key_id", "key_name", "customer_id"),
    "customer": ("customer_id", "customer_name", "external_id"),
    "endpoint": ("endpoint", "method"),
}
_GROUPS_AT_ONCE: Final = 400
_CELLS_AT_ONCE: Final = 6_000

_Cell = tuple[Group, int]


class Table(msgspec.Struct, frozen=True):
    """What an export will have: its labels, and the units (besides requests) that anything cost."""

    question: Question
    subject: Subject | None
    by_day: bool
    units: Sequence[str]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of what rows are told apart by."""
        return (*(_LABELS[self.subject] if self.subject else ()), *(("day",) if self.by_day else ()))


class Row(msgspec.Struct, frozen=True):
    """One row: its labels in order, its sums, its cost in other units."""

    labels: Sequence[str]
    sums: Sums
    units: Mapping[str, int]


async def table_of(database: Database, question: Question, subject: Subject | None, *, by_day: bool) -> Table:
    """What the export will look like. Raises what the database raises, before anything of the answer is out."""
    plan, _ = planned(question)
    async with database.read() as tx:
        reader = RollupReader(tx.connection, question.tenant_id, question.environment)
        units = {unit for _, unit, _ in await reader.units(plan)}
    return Table(question, subject, by_day, sorted(units))


async def pages(database: Database, table: Table) -> AsyncGenerator[list[Row], None]:
    """The rows, page by page; by subject, then by day. Groups without traffic have none."""
    by = SUBJECTS[table.subject] if table.subject else ()
    starts_s = starts_of(table.question, Step.DAY) if table.by_day else []
    question = table.question
    plan = planned_steps(question, by, Step.DAY, starts_s) if table.by_day else planned(question, by)[0]
    after: Group | None = None
    at_once = max(1, min(_GROUPS_AT_ONCE, _CELLS_AT_ONCE // max(1, len(starts_s))))
    while True:
        async with database.read() as tx:
            reader = RollupReader(tx.connection, table.question.tenant_id, table.question.environment)
            groups = await reader.groups_after(plan, by, after, at_once) if by else [()]
            names = NameReader(tx.connection, table.question.tenant_id)
            page = await _page(reader, names, table, plan, by, groups, starts_s) if groups else []
        yield page
        if not by or len(groups) < at_once:
            return
        after = groups[-1]


async def _page(
    reader: RollupReader,
    names: NameReader,
    table: Table,
    plan: Plan,
    by: Sequence[Column],
    groups: Sequence[Group],
    starts_s: Sequence[int],
) -> list[Row]:
    columns: tuple[Column, ...] = ("place", *by) if table.by_day else tuple(by)
    some = groups if by else None
    sums = {_cell(found, by_day=table.by_day): measured for found, measured in await reader.sums(plan, columns, some)}
    units: dict[_Cell, dict[str, int]] = defaultdict(dict)
    for found, unit, cost in await reader.units(plan, columns, some) if table.units else ():
        units[_cell(found, by_day=table.by_day)][unit] = cost
    labels = await _labels(names, table.subject, groups)
    days = _days(starts_s, table.question.time_zone)
    return [
        Row(
            (*labels[group], *([days[place]] if table.by_day else ())),
            sums[group, place],
            units.get((group, place), {}),
        )
        for group, place in sorted(sums)
        if sums[group, place].requests
    ]


def _cell(found: Group, *, by_day: bool) -> _Cell:
    return (found[1:], int(found[0])) if by_day else (found, 0)


def _days(starts_s: Sequence[int], time_zone: str) -> list[str]:
    zone = ZoneInfo(time_zone)
    return [datetime.fromtimestamp(start_s, zone).strftime("%Y-%m-%d") for start_s in starts_s]


async def _labels(names: NameReader, subject: Subject | None, groups: Sequence[Group]) -> dict[Group, tuple[str, ...]]:
    """The labels of each group: what is its own, and what it is called now."""
    ids = [str(group[0]) for group in groups if group]
    if subject == "key":
        keys = await names.keys(ids)
        return {
            group: (str(group[0]), key.name if key else "", (key.customer_id or "") if key else "")
            for group in groups
            for key in (keys.get(str(group[0])),)
        }
    if subject == "customer":
        customers = await names.customers(ids)
        return {
            group: (str(group[0]), who.name if who else "", (who.external_id or "") if who else "")
            for group in groups
            for who in (customers.get(str(group[0])),)
        }
    return {group: tuple(str(value) for value in group) for group in groups}
