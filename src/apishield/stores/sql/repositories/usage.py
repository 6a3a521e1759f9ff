"""Use of calendar quotas, and daily totals of keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.ports import DayUse, QuotaUse
from apishield.core.records import UsageTotals
from apishield.stores.sql.dialects import upsert
from apishield.stores.sql.repositories.base import row_of
from apishield.stores.sql.tables import usage_day, usage_period

_KEYS_AT_ONCE = 500


class UsageRepository:
    """Written behind by the data plane, in batches."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def quotas(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        """Units used in the period, by counter key; absent means none."""
        used: dict[str, int] = {}
        for start in range(0, len(counter_keys), _KEYS_AT_ONCE):
            statement = select(usage_period.c.counter_key, usage_period.c.used).where(
                usage_period.c.counter_key.in_(counter_keys[start : start + _KEYS_AT_ONCE]),
                usage_period.c.period_start_us == period_start_us,
            )
            used.update((row.counter_key, row.used) for row in await self._connection.execute(statement))
        return used

    async def write_quotas(self, rows: Iterable[QuotaUse]) -> None:
        """Writes the latest known use; an older word never overwrites a newer one."""
        ordered = sorted(rows, key=lambda row: (row.counter_key, row.period_start_us))
        if ordered:
            statement = upsert(
                self._connection,
                usage_period,
                ["counter_key", "period_start_us"],
                lambda new: {"used": new.used, "at_us": new.at_us},
                where=lambda new: usage_period.c.at_us <= new.at_us,
            )
            await self._connection.execute(statement, [row_of(row) for row in ordered])

    async def forget_quotas(self, *, before_us: int) -> None:
        """Forgets periods that began before."""
        await self._connection.execute(delete(usage_period).where(usage_period.c.period_start_us < before_us))

    async def add(self, rows: Iterable[DayUse]) -> None:
        """Adds to the daily totals."""
        ordered = sorted(rows, key=lambda row: (row.tenant_id, row.key_id, row.day))
        if ordered:
            statement = upsert(
                self._connection,
                usage_day,
                ["tenant_id", "key_id", "day"],
                lambda new: {
                    "allowed": usage_day.c.allowed + new.allowed,
                    "refused": usage_day.c.refused + new.refused,
                },
            )
            await self._connection.execute(statement, [row_of(row) for row in ordered])

    async def days(self, tenant_id: str, key_id: str, *, since: str) -> list[UsageTotals]:
        """A key's totals for each day from ``since`` (``2026-11-01``) on that has any, oldest first."""
        statement = (
            select(usage_day.c.day, usage_day.c.allowed, usage_day.c.refused)
            .where(usage_day.c.tenant_id == tenant_id, usage_day.c.key_id == key_id, usage_day.c.day >= since)
            .order_by(usage_day.c.day)
        )
        return [UsageTotals(**row._mapping) for row in await self._connection.execute(statement)]
