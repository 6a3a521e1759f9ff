"""Numbers of series: rows of sums name a series by its number, which is given once and never changes.

Numbers are given in a transaction of their own: a series that counts nothing harms nobody, and a worker that gave out numbers
does not make others wait while it writes its sums.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.rollup import Dims, Series
from apishield.stores.sql.ledger.arrays import integers, texts, understand_arrays
from apishield.stores.sql.ledger.statements import is_postgresql, run_many, select_rows

SetKey = tuple[str, str, Dims]
Named = tuple[int, str, str, str, str, str, str]
"""A row of ``series`` without its number: its set, then the dimensions."""

_AT_ONCE: Final = 1_000
_LONGEST: Final = 256
_COLUMNS: Final = "set_id, code, key_id, customer_id, endpoint, method, country"


def set_of(series: Series) -> SetKey:
    """Which set the series belongs to."""
    return series.tenant_id, series.environment, series.dims


def named(set_id: int, series: Series) -> Named:
    """The series as its row says it. PostgreSQL's texts hold no NUL, and its indexes no long ones."""
    return (set_id, *(_bounded(value) for value in series[3:]))  # type: ignore[return-value]


def _bounded(value: str) -> str:
    return value.replace("\0", "\ufffd")[:_LONGEST] if len(value) > _LONGEST or "\0" in value else value


async def find_sets(connection: AsyncConnection, tenants: Iterable[tuple[str, str]]) -> dict[SetKey, int]:
    """The numbers of the sets of these tenants and environments, where they have any."""
    found: dict[SetKey, int] = {}
    statement = "SELECT dims, id FROM series_sets WHERE tenant_id = ? AND environment = ?"
    for tenant_id, environment in tenants:
        for dims, set_id in await select_rows(connection, statement, (tenant_id, environment)):
            found[tenant_id, environment, Dims(dims)] = set_id
    return found


async def add_sets(connection: AsyncConnection, wanted: Iterable[SetKey]) -> None:
    """Gives numbers to sets that have none."""
    statement = "INSERT INTO series_sets (tenant_id, environment, dims) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    rows = [(tenant_id, environment, dims.value) for tenant_id, environment, dims in sorted(wanted)]
    await run_many(connection, statement, rows)


async def find_series(connection: AsyncConnection, wanted: Sequence[Named]) -> dict[Named, int]:
    """The numbers of series, where they have any."""
    found: dict[Named, int] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        if is_postgresql(connection):
            await understand_arrays(connection)
            parameters: tuple[object, ...] = _arrays(some)
            statement = (
                "SELECT w.n - 1, s.id FROM unnest(%b, %b, %b, %b, %b, %b, %b) WITH ORDINALITY "  # noqa: S608
                f"AS w ({_COLUMNS}, n) JOIN series s USING ({_COLUMNS})"
            )
        else:
            columns = _COLUMNS.split(", ")
            same = " AND ".join(f"s.{name} = json_extract(w.value, '$[{n}]')" for n, name in enumerate(columns))
            parameters = (json.dumps(some),)
            statement = f"SELECT w.key, s.id FROM json_each(?) w CROSS JOIN series s ON {same}"  # noqa: S608
        for number, series_id in await select_rows(connection, statement, parameters):
            found[some[number]] = series_id
    return found


async def add_series(connection: AsyncConnection, wanted: Iterable[Named]) -> None:
    """Gives numbers to series that have none."""
    rows = sorted(wanted)
    if not is_postgresql(connection):
        statement = f"INSERT INTO series ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"  # noqa: S608
        await run_many(connection, statement, rows)
        return
    await understand_arrays(connection)
    statement = (
        f"INSERT INTO series ({_COLUMNS}) SELECT * FROM unnest(%b, %b, %b, %b, %b, %b, %b) "  # noqa: S608
        "ON CONFLICT DO NOTHING"
    )
    for start in range(0, len(rows), _AT_ONCE):
        await connection.exec_driver_sql(statement, _arrays(rows[start : start + _AT_ONCE]))


def _arrays(rows: Sequence[Named]) -> tuple[object, ...]:
    set_ids, *dimensions = zip(*rows, strict=True)
    return (integers(set_ids), *(texts(values) for values in dimensions))


async def endpoints_without_catalogue(
    connection: AsyncConnection, tenant_id: str, day_s: int, at_most: int
) -> set[tuple[str, str]]:
    """Method and name of endpoints that counted something in a day although the tenant's catalogue doesn't name them."""
    statement = (
        "SELECT DISTINCT s.method, s.endpoint FROM series_sets ss "  # noqa: S608
        "JOIN rollup_day r ON r.set_id = ss.id AND r.bucket = ? JOIN series s ON s.id = r.series_id "
        "WHERE ss.tenant_id = ? AND ss.dims = 'endpoint' AND s.endpoint NOT IN ('', '(other)') "
        "AND NOT EXISTS (SELECT 1 FROM endpoints e "
        f"WHERE e.tenant_id = ss.tenant_id AND e.path = s.endpoint) LIMIT {at_most}"
    )
    return {(method, endpoint) for method, endpoint in await select_rows(connection, statement, (day_s, tenant_id))}


async def units(connection: AsyncConnection, tenant_id: str) -> set[str]:
    """The units besides requests that anything of the tenant was ever counted in."""
    statement = (
        "SELECT DISTINCT u.unit FROM series_sets ss JOIN rollup_units u ON u.step = 'day' AND u.set_id = ss.id "
        "WHERE ss.tenant_id = ? AND ss.dims = 'tenant'"
    )
    return {unit for (unit,) in await select_rows(connection, statement, (tenant_id,))}


async def series_of_hour(connection: AsyncConnection, set_id: int, bucket_s: int) -> list[tuple[str, ...]]:
    """The dimensions of all series of a set that counted anything in an hour."""
    statement = (
        "SELECT s.code, s.key_id, s.customer_id, s.endpoint, s.method, s.country "
        "FROM rollup_hour r JOIN series s ON s.id = r.series_id WHERE r.set_id = ? AND r.bucket = ?"
    )
    return [tuple(row) for row in await select_rows(connection, statement, (set_id, bucket_s))]
