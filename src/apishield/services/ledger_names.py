"""Which series there are, and how many there may be.

Owns: numbers of series as this process knows them, the ceilings on a tenant's endpoints and series, beyond which things count
as ``(other)``. Does not own: what is counted in a series (``analytics.rollup``).

The ceilings are each worker's own: several that meet new names at the same moment may go a little over together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.rollup import Dims, Measures, Rollup, Series
from apishield.analytics.steps import HOUR_S
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger import names
from apishield.stores.sql.ledger.names import Named, SetKey

log = structlog.get_logger("apishield.ledger")

ENDPOINTS_PER_TENANT: Final = 1_000
"""How many endpoints that no catalogue names have series of their own."""
SERIES_PER_HOUR: Final = 10_000
"""How many of the most detailed series of a tenant and environment may count in an hour."""
_REMEMBERED_SERIES: Final = 200_000
_REMEMBERED_TENANTS: Final = 10_000

Hour = tuple[str, str, int]


class SeriesNames:
    """What one worker knows of series. Bounded: what it forgets it asks the database again.

    Methods that take a ``connection`` use it, instead of transactions of their own; where that transaction is undone, whoever
    opened it calls ``forget``.
    """

    def __init__(self, database: Database) -> None:
        self.other_series = 0
        self._database = database
        self._sets: dict[SetKey, int] = {}
        self._ids: dict[Series, tuple[int, int]] = {}
        self._endpoints: dict[str, set[tuple[str, str]]] = {}
        self._hours: dict[Hour, set[Series]] = {}
        self._warned: set[str] = set()

    def forget(self) -> None:
        """Forgets all numbers: some may have been given in a transaction that was undone."""
        self._sets.clear()
        self._ids.clear()

    @asynccontextmanager
    async def _reading(self, connection: AsyncConnection | None) -> AsyncIterator[AsyncConnection]:
        if connection is not None:
            yield connection
        else:
            async with self._database.read() as work:
                yield work.connection

    @asynccontextmanager
    async def _writing(self, connection: AsyncConnection | None) -> AsyncIterator[AsyncConnection]:
        if connection is not None:
            yield connection
        else:
            async with self._database.transaction() as work:
                yield work.connection

    # --- endpoints ----------------------------------------------------------------------------------------------------

    async def learn_endpoints(self, tenants: Iterable[str], connection: AsyncConnection | None = None) -> None:
        """Makes ready to answer for these tenants."""
        missing = [tenant for tenant in tenants if tenant not in self._endpoints]
        if not missing:
            return
        if len(self._endpoints) > _REMEMBERED_TENANTS:
            self._endpoints.clear()
        async with self._reading(connection) as reading:
            for tenant in missing:
                self._endpoints[tenant] = await names.endpoints_without_catalogue(reading, tenant, ENDPOINTS_PER_TENANT)

    def knows_endpoint(self, tenant_id: str, method: str, endpoint: str) -> bool:
        """Whether an endpoint has a series of its own; a new one gets it while there is room."""
        known = self._endpoints.setdefault(tenant_id, set())
        if (method, endpoint) in known:
            return True
        if len(known) < ENDPOINTS_PER_TENANT:
            known.add((method, endpoint))
            return True
        self._refuse(tenant_id, "endpoints")
        return False

    # --- the most detailed series -------------------------------------------------------------------------------------

    async def bounded(self, sums: Rollup, connection: AsyncConnection | None = None) -> Rollup:
        """``sums`` with those of the most detailed series that are one too many in their hour counted as ``(other)``."""
        wanted: defaultdict[Hour, set[Series]] = defaultdict(set)
        for series, bucket_s in sums:
            if series.dims is Dims.FULL:
                wanted[series.tenant_id, series.environment, bucket_s - bucket_s % HOUR_S].add(series)
        await self._learn_hours(wanted, connection)
        refused: set[tuple[Series, int]] = set()
        for hour, some in wanted.items():
            known = self._hours[hour]
            new = some - known
            room = max(0, SERIES_PER_HOUR - len(known))
            if len(new) > room:
                ordered = sorted(new)
                new = set(ordered[:room])
                refused.update((series, hour[2]) for series in ordered[room:])
                self._refuse(hour[0], "series")
            known |= new
        return _renamed(sums, refused) if refused else sums

    async def _learn_hours(self, wanted: Iterable[Hour], connection: AsyncConnection | None) -> None:
        missing = [hour for hour in wanted if hour not in self._hours]
        if not missing:
            return
        if sum(map(len, self._hours.values())) > _REMEMBERED_SERIES:
            self._hours.clear()
            missing = list(wanted)
        await self._learn_sets({hour[:2] for hour in missing}, connection, create=False)
        async with self._reading(connection) as reading:
            for tenant_id, environment, bucket_s in missing:
                set_id = self._sets.get((tenant_id, environment, Dims.FULL))
                rows = [] if set_id is None else await names.series_of_hour(reading, set_id, bucket_s)
                self._hours[tenant_id, environment, bucket_s] = {
                    Series(tenant_id, environment, Dims.FULL, *row) for row in rows
                }

    # --- numbers ------------------------------------------------------------------------------------------------------

    async def learn(self, wanted: Iterable[Series], connection: AsyncConnection | None = None) -> None:
        """Makes ready to tell the numbers of these series, giving new ones to those that have none."""
        every = set(wanted)
        if len(self._ids) > _REMEMBERED_SERIES:
            self._ids.clear()
        missing = [series for series in every if series not in self._ids]
        if not missing:
            return
        await self._learn_sets({series[:2] for series in missing}, connection, create=True)
        rows = {series: names.named(self._sets[names.set_of(series)], series) for series in missing}
        found = await self._numbers(sorted(set(rows.values())), connection)
        for series, row in rows.items():
            self._ids[series] = row[0], found[row]

    async def _numbers(self, rows: list[Named], connection: AsyncConnection | None) -> dict[Named, int]:
        async with self._reading(connection) as reading:
            found = await names.find_series(reading, rows)
        new = [row for row in rows if row not in found]
        if new:
            async with self._writing(connection) as writing:
                await names.add_series(writing, new)
                found |= await names.find_series(writing, new)
        return found

    async def _learn_sets(
        self, tenants: set[tuple[str, str]], connection: AsyncConnection | None, *, create: bool
    ) -> None:
        unknown = sorted(one for one in tenants if (*one, Dims.FULL) not in self._sets)
        if not unknown:
            return
        async with self._reading(connection) as reading:
            found = await names.find_sets(reading, unknown)
        new = [(*one, dims) for one in unknown for dims in Dims if (*one, dims) not in found]
        if new and create:
            async with self._writing(connection) as writing:
                await names.add_sets(writing, new)
                found |= await names.find_sets(writing, unknown)
        self._sets |= found

    def id_of(self, series: Series) -> tuple[int, int]:
        """The numbers of the series' set and of the series, which was learnt."""
        return self._ids[series]

    def _refuse(self, tenant_id: str, what: str) -> None:
        self.other_series += 1
        if tenant_id not in self._warned:
            self._warned.add(tenant_id)
            log.warning("ledger.too_many_series", tenant=tenant_id, what=what, counted_as="(other)")


def _renamed(sums: Rollup, refused: set[tuple[Series, int]]) -> Rollup:
    """``sums`` with the ``refused`` (series and start of the hour) counted as the one that stands for them all."""
    bounded = Rollup(sums.step)
    for (series, bucket_s), measures in sums.items():
        name = series.other() if (series, bucket_s - bucket_s % HOUR_S) in refused else series
        cell: Measures | None = bounded.get((name, bucket_s))
        if cell is None:
            bounded[name, bucket_s] = measures
        else:
            cell.add(measures)
    return bounded
