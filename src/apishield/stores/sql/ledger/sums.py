"""Adds rows to tables of sums: rollups, units, addresses. Thousands at once, in the same order everywhere.

Two workers that add to the same rows wait for each other, row by row; because both go through the tables, and through each
table, in one order, neither can hold what the other waits for while it waits itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import LargeBinary, Table, Text
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.stores.sql.ledger.arrays import blobs, integers, texts, understand_arrays
from apishield.stores.sql.ledger.latency import LOOSE_ON_POSTGRESQL, SQLITE_FUNCTION, packed
from apishield.stores.sql.ledger.statements import Row, is_postgresql, run, run_many

ROWS_AT_ONCE: Final = 20_000
_STAGE: Final = "rollup_rows"
_LARGEST: Final = 1 << 62
_TOLD: Final = frozenset({"cost", "bytes", "latency_us"})
"""Sums of what clients say, where a few lies could add up to anything. Rows of ``rows`` add at most 2⁶¹ at once."""


async def add_rows(connection: AsyncConnection, table: Table, rows: Sequence[Row]) -> None:
    """Adds ``rows``, of all the table's columns, to those with the same primary key, or inserts them."""
    await add_levels(connection, [(table, 1, rows)])


async def add_levels(connection: AsyncConnection, levels: Iterable[tuple[Table, int, Sequence[Row]]]) -> None:
    """Adds rows to tables one after the other; a ``bucket`` goes back to a multiple of the number of seconds given.

    Where tables are given the same rows, they are made ready for the database once.
    """
    if not is_postgresql(connection):
        await _add_on_sqlite(connection, levels)
        return
    await understand_arrays(connection)
    last: Sequence[Row] | None = None
    arrays: list[tuple[bytes, ...]] = []
    for table, seconds, rows in levels:
        if rows is not last:
            last = rows
            arrays = [_arrays(table, rows[at : at + ROWS_AT_ONCE]) for at in range(0, len(rows), ROWS_AT_ONCE)]
        for some in arrays:
            result = await connection.exec_driver_sql(_postgresql(table, seconds), some)
            if "latency" in table.c:
                await _pack(connection, table, result.all())


async def _add_on_sqlite(connection: AsyncConnection, levels: Iterable[tuple[Table, int, Sequence[Row]]]) -> None:
    """Rows of rollups are handed over once, into a table of the connection's own, and added from there to all levels."""
    staged: Sequence[Row] | None = None
    for table, seconds, rows in levels:
        if "latency" not in table.c:
            values = _names("?" for _ in table.c)
            await run_many(connection, _sqlite(table, f"VALUES ({values})"), rows)
        elif rows:
            columns = _names(table.c.keys())
            if rows is not staged:
                staged = rows
                await run(connection, f"CREATE TEMP TABLE IF NOT EXISTS {_STAGE} ({columns})")
                await run(connection, f"DELETE FROM {_STAGE}")  # noqa: S608  a name of ours
                values = _names("?" for _ in table.c)
                await run_many(connection, f"INSERT INTO {_STAGE} VALUES ({values})", rows)  # noqa: S608  a name of ours
            floored = _names(_floored(name, name, seconds) for name in table.c.keys())  # noqa: SIM118
            # ``WHERE true``: else ON would be taken for a join's.
            await run(connection, _sqlite(table, f"SELECT {floored} FROM {_STAGE} WHERE true"))  # noqa: S608


async def _pack(connection: AsyncConnection, table: Table, loose: Sequence[Any]) -> None:
    """Packs the latency of rows that were just written, so that they are locked and nobody appends meanwhile."""
    key = " AND ".join(f"{column.name} = ?" for column in table.primary_key)
    rows = [(packed(latency), *place) for *place, latency in loose]
    await run_many(connection, f"UPDATE {table.name} SET latency = ? WHERE {key}", rows)  # noqa: S608  names of ours


@cache
def _sqlite(table: Table, source: str) -> str:
    sums = [
        f"{name} = CASE WHEN excluded.{name} IS NULL THEN {name} WHEN {name} IS NULL THEN excluded.{name} "
        f"WHEN length({name}) < 256 THEN CAST({name} || excluded.{name} AS BLOB) "
        f"ELSE {SQLITE_FUNCTION}({name}, excluded.{name}) END"
        if name == "latency"
        else f"{name} = {_sum(name, name)}"
        for name in _summed(table)
    ]
    return (
        f"INSERT INTO {table.name} ({_names(table.c.keys())}) {source} "
        f"ON CONFLICT ({_names(table.primary_key.columns.keys())}) DO UPDATE SET {', '.join(sums)}"
    )


@cache
def _postgresql(table: Table, seconds: int) -> str:
    sums = [
        # Appending NULL would give NULL.
        f"{name} = CASE WHEN r.{name} IS NULL THEN excluded.{name} ELSE r.{name} || coalesce(excluded.{name}, '') END"
        if name == "latency"
        else f"{name} = {_sum(name, f'r.{name}')}"
        for name in _summed(table)
    ]
    key = _names(table.primary_key.columns.keys())
    columns = _names(table.c.keys())
    # The driver takes % for a parameter.
    values = _names(_floored(name, f"n.{name}", seconds, "%%") for name in table.c.keys())  # noqa: SIM118
    arrays = _names("%b" for _ in table.c)
    statement = (
        f"INSERT INTO {table.name} AS r ({columns}) SELECT {values} FROM unnest({arrays}) AS n ({columns}) "  # noqa: S608
        f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(sums)}"
    )
    if "latency" not in table.c:
        return statement
    place = _names(f"r.{name}" for name in table.primary_key.columns.keys())  # noqa: SIM118  columns, not names, else
    written = f"WITH written AS ({statement} RETURNING {place}, r.latency)"
    return f"{written} SELECT * FROM written WHERE {LOOSE_ON_POSTGRESQL}"  # noqa: S608  names of ours


def _names(names: Any) -> str:
    return ", ".join(names)


def _sum(name: str, before: str) -> str:
    """A sum that stays as it is rather than grow out of 64 bits: an error would stop the ledger for everybody."""
    total = f"{before} + excluded.{name}"
    return f"CASE WHEN {before} < {_LARGEST} THEN {total} ELSE {before} END" if name in _TOLD else total


def _floored(name: str, value: str, seconds: int, modulo: str = "%") -> str:
    return f"{value} - {value} {modulo} {seconds}" if name == "bucket" and seconds > 1 else value


def _summed(table: Table) -> list[str]:
    return [column.name for column in table.c if not column.primary_key]


def _arrays(table: Table, rows: Sequence[Row]) -> tuple[bytes, ...]:
    columns = zip(*rows, strict=True)
    return tuple(_array(column.type, values) for column, values in zip(table.c, columns, strict=True))


def _array(type_: Any, values: tuple[Any, ...]) -> bytes:
    if isinstance(type_, Text):
        return texts(values)
    return blobs(values) if isinstance(type_, LargeBinary) else integers(values)
