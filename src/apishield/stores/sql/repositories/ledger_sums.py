"""Sums of the ledger that other figures are held against."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.rollup import Dims
from apishield.analytics.steps import Step
from apishield.stores.sql.ledger.tables import rollup_day, rollup_hour, rollup_minute, series, series_sets

ROLLUPS = {Step.MINUTE: rollup_minute, Step.HOUR: rollup_hour, Step.DAY: rollup_day}


class LedgerSumsRepository:
    """Reads rollups."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def by_code(self, tenant_id: str, step: Step, from_s: int, to_s: int) -> dict[str, int]:
        """A tenant's decisions by code, over the buckets of ``step`` that begin at ``from_s`` or later and before ``to_s``."""
        rollup = ROLLUPS[step]
        statement = (
            select(series.c.code, func.sum(rollup.c.requests))
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
