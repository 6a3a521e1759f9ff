"""Which series there are, and how many there may be.

Owns: numbers of series as this process knows them, the ceilings on a tenant's endpoints and series, beyond which things count
as ``(other)``. Does not own: what is counted in a series (``analytics.rollup``).

The ceilings are each worker's own: several that meet new names at the same moment may go a little over together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.rollup import OTHER, Dims, Measures, Series
from apishield.analytics.steps import DAY_S, HOUR_S
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger import names
from apishield.stores.sql.ledger.names import Named, SetKey
from apishield.stores.sql.ledger.rows import Cell, Place, Places

log = structlog.get_logger("apishield.ledger")

ENDPOINTS_PER_TENANT: Final = 1_000
"""How many endpoints that no catalogue names have series of their own in a day (UTC): the first that were let through, or asked
for with a key."""
UNITS_PER_TENANT: Final = 50
"""How many units besides requests are counted by their names."""
SERIES_PER_HOUR: Final = 10_000
"""How many of the most detailed series of a tenant and environment may count in an hour."""
_REMEMBERED_SERIES: Final = 200_000
_REMEMBERED_TENANTS: Final = 10_000

_COARSER: Final = (Dims.KEY, Dims.ENDPOINT, Dims.COUNTRY, Dims.TENANT)

Hour = tuple[str, str, int]


class _Placed(NamedTuple):
    """Where a series counts, and the hour in which there was room for it when it was last asked."""

    places: Places
    hour: int


class SeriesNames:
    """What one worker knows of series. Bounded: what it forgets it asks the database again.

    Methods that take a ``connection`` use it, instead of transactions of their own; where that transaction is undone, whoever
    opened it calls ``forget``.
    """

    def __init__(self, database: Database) -> None:
        self.other_series = 0
        self._database = database
        self._sets: dict[SetKey, int] = {}
        self._ids: dict[Series, Place] = {}
        self._placed: dict[Series, _Placed] = {}
        self._day_s = 0
        self._endpoints: dict[str, set[tuple[str, str]]] = {}
        self._units: dict[str, set[str]] = {}
        self._hours: dict[Hour, set[Series]] = {}
        self._warned: set[str] = set()

    def forget(self) -> None:
        """Forgets all numbers: some may have been given in a transaction that was undone."""
        self._sets.clear()
        self._ids.clear()
        self._placed.clear()

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

    async def learn_endpoints(
        self, tenants: Iterable[str], now_s: int, connection: AsyncConnection | None = None
    ) -> None:
        """Makes ready to answer for these tenants. Each day begins with room for all that is allowed."""
        day_s = now_s // DAY_S * DAY_S
        if day_s != self._day_s or len(self._endpoints) > _REMEMBERED_TENANTS:
            self._day_s = day_s
            self._endpoints.clear()
        missing = [tenant for tenant in tenants if tenant not in self._endpoints]
        if not missing:
            return
        async with self._reading(connection) as reading:
            for tenant in missing:
                found = await names.endpoints_without_catalogue(reading, tenant, day_s, ENDPOINTS_PER_TENANT)
                self._endpoints[tenant] = found

    def knows_endpoint(self, tenant_id: str, method: str, endpoint: str, claims: bool = True) -> bool:
        """Whether an endpoint has a series of its own; a new one gets it while there is room, where a check ``claims`` it."""
        known = self._endpoints.setdefault(tenant_id, set())
        if (method, endpoint) in known:
            return True
        if not claims:
            return False
        if len(known) < ENDPOINTS_PER_TENANT:
            known.add((method, endpoint))
            return True
        self._refuse(tenant_id, "endpoints")
        return False

    # --- units --------------------------------------------------------------------------------------------------------

    async def bound_units(
        self, cells: Sequence[tuple[Series, int, Measures]], connection: AsyncConnection | None = None
    ) -> None:
        """Counts units that are one too many of their tenant as ``(other)``: each that has a name keeps its rows for good."""
        counting = [(series.tenant_id, measures) for series, _, measures in cells if measures.units]
        if not counting:
            return
        missing = {tenant_id for tenant_id, _ in counting if tenant_id not in self._units}
        if missing:
            if len(self._units) > _REMEMBERED_TENANTS:
                self._units.clear()
                missing = {tenant_id for tenant_id, _ in counting}
            async with self._reading(connection) as reading:
                for tenant_id in missing:
                    self._units[tenant_id] = await names.units(reading, tenant_id)
        for tenant_id, measures in counting:
            if not measures.units.keys() <= self._units[tenant_id]:
                measures.units = self._named_units(tenant_id, measures.units)

    def _named_units(self, tenant_id: str, units: Mapping[str, int]) -> dict[str, int]:
        known, found = self._units[tenant_id], dict[str, int]()
        for unit, cost in units.items():
            name = unit
            if unit not in known:
                if len(known) < UNITS_PER_TENANT and unit.isidentifier():
                    known.add(unit)
                else:
                    name = OTHER
                    self._refuse(tenant_id, "units")
            found[name] = found.get(name, 0) + cost
        return found

    # --- the most detailed series -------------------------------------------------------------------------------------

    async def place(
        self, cells: Iterable[tuple[Series, int, Measures]], connection: AsyncConnection | None = None
    ) -> list[Cell]:
        """Measures by the places where they count, giving numbers to new series.

        A series that is one too many in its hour counts as ``(other)`` in the most detailed set; in all others by its name.
        """
        placed, found = self._placed, []
        unknown: list[tuple[Series, int, Measures]] = []
        for cell in cells:
            series, bucket_s, measures = cell
            known = placed.get(series)
            if known is None or known.hour != bucket_s // HOUR_S:
                unknown.append(cell)
            else:
                found.append((known.places, bucket_s, measures))
        if unknown:
            refused = await self._learn(unknown, connection)
            for series, bucket_s, measures in unknown:
                is_refused = (series, bucket_s // HOUR_S) in refused
                full = self._ids[series.other() if is_refused else series]
                by_key, by_endpoint, by_country, by_tenant = (self._ids[one] for one in _coarser(series))
                places = (full, by_key, by_endpoint, by_country, by_tenant)
                found.append((places, bucket_s, measures))
                if not is_refused:
                    placed[series] = _Placed(places, bucket_s // HOUR_S)
        return found

    async def _learn(
        self, cells: Iterable[tuple[Series, int, Measures]], connection: AsyncConnection | None
    ) -> set[tuple[Series, int]]:
        """Gives numbers to series that have none. Returns those that are one too many: series and hour."""
        wanted: defaultdict[Hour, set[Series]] = defaultdict(set)
        for series, bucket_s, _ in cells:
            wanted[series.tenant_id, series.environment, bucket_s // HOUR_S].add(series)
        await self._learn_hours(wanted, connection)
        if len(self._ids) > _REMEMBERED_SERIES:
            self._ids.clear()
            self._placed.clear()
        refused: set[tuple[Series, int]] = set()
        missing: set[Series] = set()
        for hour, some in wanted.items():
            too_many = self._refused(hour, some)
            refused.update((series, hour[2]) for series in too_many)
            missing |= some - too_many
            missing.update(series.other() for series in too_many)
            missing.update(coarser for series in some for coarser in _coarser(series))
        await self._number({series for series in missing if series not in self._ids}, connection)
        return refused

    def _refused(self, hour: Hour, some: set[Series]) -> set[Series]:
        """Those of ``some`` for which there is no room in the hour; the others are counted among its own from now on."""
        known = self._hours[hour]
        new = some - known
        room = max(0, SERIES_PER_HOUR - len(known))
        if len(new) <= room:
            known |= new
            return set()
        ordered = sorted(new)
        known.update(ordered[:room])
        self._refuse(hour[0], "series")
        return set(ordered[room:])

    async def _learn_hours(self, wanted: Iterable[Hour], connection: AsyncConnection | None) -> None:
        missing = [hour for hour in wanted if hour not in self._hours]
        if not missing:
            return
        if sum(map(len, self._hours.values())) > _REMEMBERED_SERIES:
            self._hours.clear()
            missing = list(wanted)
        await self._learn_sets({hour[:2] for hour in missing}, connection, create=False)
        async with self._reading(connection) as reading:
            for tenant_id, environment, hour in missing:
                set_id = self._sets.get((tenant_id, environment, Dims.FULL))
                rows = [] if set_id is None else await names.series_of_hour(reading, set_id, hour * HOUR_S)
                self._hours[tenant_id, environment, hour] = {
                    Series(tenant_id, environment, Dims.FULL, *row) for row in rows
                }

    # --- numbers ------------------------------------------------------------------------------------------------------

    async def _number(self, missing: set[Series], connection: AsyncConnection | None) -> None:
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

    def _refuse(self, tenant_id: str, what: str) -> None:
        self.other_series += 1
        if tenant_id not in self._warned:
            self._warned.add(tenant_id)
            log.warning("ledger.too_many_series", tenant=tenant_id, what=what, counted_as="(other)")


def _coarser(series: Series) -> tuple[Series, ...]:
    """The series of the other sets in which ``series`` counts, in the order of ``Places``."""
    return tuple(series.narrow(dims) for dims in _COARSER)
