"""Sums of the ledger that other figures are held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.rollup import Dims
from apishield.analytics.steps import Step
from apishield.stores.sql.dialects import added_up
from apishield.stores.sql.ledger.tables import rollup_day, rollup_hour, rollup_minute, rollup_week, series, series_sets

ROLLUPS: Final = {Step.MINUTE: rollup_minute, Step.HOUR: rollup_hour, Step.DAY: rollup_day}

MEASURES: Final = ("requests", "cost", "bytes", "results")


class SetSums(msgspec.Struct, frozen=True):
    """The sums of one grouping set, in the order of ``MEASURES``."""

    tenant_id: str
    environment: str
    dims: str
    sums: tuple[int, ...]


class LedgerSumsRepository:
    """Reads rollups."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def by_code(self, tenant_id: str, step: Step, from_s: int, to_s: int) -> dict[str, int]:
        """A tenant's decisions by code, over the buckets of ``step`` that begin at ``from_s`` or later and before ``to_s``."""
        rollup = ROLLUPS[step]
        statement = (
            select(series.c.code, added_up(rollup.c.requests))
            .join(series_sets, series_sets.c.id == rollup.c.set_id)
            .join(series, series.c.id == rollup.c.series_id)
            .where(
                series_sets.c.tenant_id == tenant_id,
                series_sets.c.dims == Dims.TENANT.value,
                rollup.c.bucket >= from_s,
                rollup.c.bucket < to_s,
            )
            .group_by(series.c.code)
        )
        return {code: int(requests) for code, requests in await self._connection.execute(statement)}

    async def by_set(self, step: Step, from_s: int) -> Sequence[SetSums]:
        """The sums of every grouping set over the buckets of ``step`` that begin at ``from_s`` or later."""
        return await self._by_set(ROLLUPS[step], from_s)

    async def by_set_in_weeks(self, from_s: int) -> Sequence[SetSums]:
        """As ``by_set``, over weeks, which only the sets by key have."""
        return await self._by_set(rollup_week, from_s)

    async def _by_set(self, rollup: Table, from_s: int) -> Sequence[SetSums]:
        sums = (
            select(rollup.c.set_id, *(added_up(rollup.c[name]).label(name) for name in MEASURES))
            .where(rollup.c.bucket >= from_s)
            .group_by(rollup.c.set_id)
            .subquery()
        )
        statement = (
            select(
                series_sets.c.tenant_id,
                series_sets.c.environment,
                series_sets.c.dims,
                *(sums.c[name] for name in MEASURES),
            )
            .join_from(series_sets, sums, sums.c.set_id == series_sets.c.id)
            .order_by(series_sets.c.tenant_id, series_sets.c.environment, series_sets.c.dims)
        )
        return [
            SetSums(row.tenant_id, row.environment, row.dims, tuple(int(value) for value in row[3:]))
            for row in await self._connection.execute(statement)
        ]
