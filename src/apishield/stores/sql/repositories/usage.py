"""Use of calendar quotas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.ports import QuotaUse
from apishield.stores.sql.dialects import upsert
from apishield.stores.sql.repositories.base import row_of
from apishield.stores.sql.tables import usage_period

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
