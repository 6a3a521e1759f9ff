"""Where the two databases differ in statements: inserting or updating in one, looking into JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import JSON, Column, ColumnElement, Table, Text, cast, func, type_coerce
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

Columns = ReadOnlyColumnCollection[str, Any]


def upsert(
    connection: AsyncConnection,
    table: Table,
    key: Sequence[str],
    values: Callable[[Columns], dict[str, Any]],
    where: Callable[[Columns], ColumnElement[bool]] | None = None,
) -> postgresql.Insert | sqlite.Insert:
    """Inserts a row; where one with this key exists, sets ``values`` of the new one on it, if ``where`` holds."""
    statement: postgresql.Insert | sqlite.Insert
    statement = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=list(key), set_=values(new), where=None if where is None else where(new)
    )


def array_length(connection: AsyncConnection, column: Column[Any]) -> ColumnElement[int]:
    """How many items the list has that is kept in a column as JSON."""
    text = type_coerce(column, Text)
    return func.json_array_length(cast(text, JSON) if connection.dialect.name == "postgresql" else text)
