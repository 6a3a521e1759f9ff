"""Statements for many rows, straight to the driver: building one object per value would cost more than the database does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

Row = tuple[Any, ...]


def is_postgresql(connection: AsyncConnection) -> bool:
    """Whether this is PostgreSQL; else it is SQLite."""
    return connection.dialect.name == "postgresql"


def in_dialect(connection: AsyncConnection, statement: str) -> str:
    """``statement``, whose parameters are written ``?``, as the driver wants it."""
    return statement.replace("?", "%s") if is_postgresql(connection) else statement


async def run_many(connection: AsyncConnection, statement: str, rows: Sequence[Row]) -> int:
    """Runs ``statement`` for each row. Returns how many rows of the table it changed."""
    if not rows:
        return 0
    result = await connection.exec_driver_sql(in_dialect(connection, statement), list(rows))
    return result.rowcount


async def select_rows(connection: AsyncConnection, statement: str, parameters: Row = ()) -> Sequence[Any]:
    """The rows that ``statement`` finds."""
    return (await connection.exec_driver_sql(in_dialect(connection, statement), parameters)).all()


async def run(connection: AsyncConnection, statement: str, parameters: Row = ()) -> int:
    """Runs ``statement``. Returns how many rows it changed."""
    return (await connection.exec_driver_sql(in_dialect(connection, statement), parameters)).rowcount


async def delete_some(
    connection: AsyncConnection, table: str, key: Sequence[str], where: str, parameters: Row, at_most: int
) -> int:
    """Deletes up to ``at_most`` rows of ``table`` for which ``where`` holds. Returns how many it deleted."""
    names = ", ".join(key)
    statement = (
        f"DELETE FROM {table} WHERE ({names}) IN "  # noqa: S608  names and conditions are ours, values are parameters
        f"(SELECT {names} FROM {table} WHERE {where} LIMIT {at_most})"
    )
    return await run(connection, statement, parameters)
