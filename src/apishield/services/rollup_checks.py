"""Holds the rollups against one another: minutes, hours, days and weeks, and the grouping sets, must come to the same sums.

They are written in one transaction, so at any moment they are equal over the time of which all are kept; a difference is a
fault of ours, or somebody has written to the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from apishield.analytics.periods import Horizon
from apishield.analytics.rollup import Dims
from apishield.analytics.steps import DAY_S, SECOND_US, WEEK_S, Step, ceil
from apishield.core.ports import Clock
from apishield.stores.sql.database import Database
from apishield.stores.sql.repositories.ledger_sums import MEASURES, LedgerSumsRepository, SetSums

_Place = tuple[str, str, str]  # tenant, environment, grouping set


class RollupDrift(msgspec.Struct, frozen=True):
    """Two sums that should be equal and are not. ``one`` and ``other`` say which: ``minute key``, ``hour key``."""

    tenant_id: str
    environment: str
    measure: str
    one: str
    one_sum: int
    other: str
    other_sum: int


async def rollup_drift(database: Database, clock: Clock, *, days: int | None = None) -> list[RollupDrift]:
    """All differences, over the last ``days`` or all that is kept. Reads whole tables: seldom, and never on a check's way."""
    now_us = clock()
    horizon = Horizon.at(now_us)
    since_s = 0 if days is None else ceil(now_us // SECOND_US, Step.DAY) - days * DAY_S
    minutes_s, hours_s = max(horizon.minutes_from_s, since_s), max(horizon.hours_from_s, since_s)
    async with database.read() as tx:  # one moment
        sums = LedgerSumsRepository(tx.connection)
        minute = _by_place(await sums.by_set(Step.MINUTE, minutes_s))
        hour_beside = _by_place(await sums.by_set(Step.HOUR, minutes_s))
        hour = hour_beside if hours_s == minutes_s else _by_place(await sums.by_set(Step.HOUR, hours_s))
        day = _by_place(await sums.by_set(Step.DAY, hours_s))
        weeks_s = since_s - since_s % WEEK_S
        days_beside = _by_place(await sums.by_set(Step.DAY, weeks_s))
        week = _by_place(await sums.by_set_in_weeks(weeks_s))
    return [
        *_levels(Step.MINUTE, minute, Step.HOUR, hour_beside),
        *_levels(Step.HOUR, hour, Step.DAY, day),
        *_levels(Step.DAY, {place: sums for place, sums in days_beside.items() if place[2] == Dims.KEY}, "week", week),
        *_sets(day),
    ]


def _by_place(found: Sequence[SetSums]) -> dict[_Place, tuple[int, ...]]:
    return {(each.tenant_id, each.environment, each.dims): each.sums for each in found}


def _levels(
    finer: str, fine: Mapping[_Place, tuple[int, ...]], coarser: str, coarse: Mapping[_Place, tuple[int, ...]]
) -> list[RollupDrift]:
    """Where the sums of two lengths of time differ."""
    nothing = (0,) * len(MEASURES)
    return [
        RollupDrift(place[0], place[1], measure, f"{finer} {place[2]}", one, f"{coarser} {place[2]}", other)
        for place in sorted(fine.keys() | coarse.keys())
        for measure, one, other in zip(MEASURES, fine.get(place, nothing), coarse.get(place, nothing), strict=True)
        if one != other
    ]


def _sets(day: Mapping[_Place, tuple[int, ...]]) -> list[RollupDrift]:
    """Where a grouping set comes to other sums than the tenant's own."""
    nothing = (0,) * len(MEASURES)
    owners = sorted({place[:2] for place in day})
    return [
        RollupDrift(*owner, measure, f"day {Dims.TENANT}", one, f"day {dims}", other)
        for owner in owners
        for dims in Dims
        if dims is not Dims.TENANT
        for measure, one, other in zip(
            MEASURES, day.get((*owner, Dims.TENANT), nothing), day.get((*owner, dims), nothing), strict=True
        )
        if one != other
    ]
