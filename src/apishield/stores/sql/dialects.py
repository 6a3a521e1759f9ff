"""Where the two databases differ in statements: inserting or updating in one, looking into JSON, lists, what adds up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    ColumnElement,
    LargeBinary,
    Table,
    Text,
    any_,
    cast,
    func,
    literal,
    select,
    type_coerce,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

Columns = ReadOnlyColumnCollection[str, Any]


class added_up(GenericFunction[Any]):  # noqa: N801  named as a function of SQL
    """The sum of integers, whatever they come to; a number that ``int`` makes whole.

    SQLite's ``sum`` fails where it leaves 64 bits, which clients' figures could bring about; its ``total`` is exact up to 2⁵³.
    """

    inherit_cache = True


@compiles(added_up)
def _compile_sum(element: added_up, compiler: SQLCompiler, **options: Any) -> str:
    return f"sum({compiler.process(element.clauses, **options)})"


@compiles(added_up, "sqlite")
def _compile_total(element: added_up, compiler: SQLCompiler, **options: Any) -> str:
    return f"total({compiler.process(element.clauses, **options)})"


class joined(GenericFunction[bytes]):  # noqa: N801  named as a function of SQL
    """Bytes one after the other, in any order; NULL where there are none."""

    type = LargeBinary()
    inherit_cache = True


@compiles(joined)
def _compile_joined(element: joined, compiler: SQLCompiler, **options: Any) -> str:
    return f"string_agg({compiler.process(element.clauses, **options)}, '')"


@compiles(joined, "sqlite")
def _compile_concatenated(element: joined, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(group_concat({compiler.process(element.clauses, **options)}, '') AS BLOB)"


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


def among(connection: AsyncConnection, column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """``column`` has one of ``values``, numbers or texts: one parameter for all of them, as each costs its time."""
    if connection.dialect.name == "postgresql":
        return column == any_(literal(list(values), ARRAY(column.type)))
    listed = func.json_each(literal(json.dumps(list(values)))).table_valued("value")
    return column.in_(select(listed.c.value))


def array_length(connection: AsyncConnection, column: Column[Any]) -> ColumnElement[int]:
    """How many items the list has that is kept in a column as JSON."""
    text = type_coerce(column, Text)
    return func.json_array_length(cast(text, JSON) if connection.dialect.name == "postgresql" else text)
