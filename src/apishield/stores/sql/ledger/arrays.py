"""Columns of values as PostgreSQL reads arrays: ``INSERT … SELECT … FROM unnest(…)`` takes many rows in one statement.

Written here byte by byte (PostgreSQL's binary format of arrays), because the driver's own way costs half a microsecond a
value, which is more than the database needs for it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from struct import Struct
from sys import byteorder
from typing import Any, Final, cast

from sqlalchemy.ext.asyncio import AsyncConnection

_INT8, _TEXT, _BYTEA = 20, 25, 17
_INT8_BYTES: Final = 8
_head = Struct(">iiIii").pack  # dimensions, whether there are NULLs, type of an item, items, lowest index
_length = Struct(">i").pack
_NULL = _length(-1)


class Integers(bytes):
    """``bigint[]``."""


class Texts(bytes):
    """``text[]``."""


class Blobs(bytes):
    """``bytea[]``."""


def integers(values: Iterable[int]) -> Integers:
    """The array of ``values``, each within 64 bits."""
    numbers = array("q", values)
    if byteorder == "little":
        numbers.byteswap()
    raw, count = numbers.tobytes(), len(numbers)
    width = 4 + _INT8_BYTES
    items = bytearray(width * count)  # of each item: its length (00 00 00 08), then its bytes
    items[3::width] = b"\x08" * count
    for place in range(_INT8_BYTES):
        items[4 + place :: width] = raw[place::_INT8_BYTES]
    return Integers(_head(1, 0, _INT8, count, 1) + items)


def texts(values: Sequence[str]) -> Texts:
    """The array of ``values``."""
    items = [value.encode() for value in values]
    return Texts(_head(1, 0, _TEXT, len(items), 1) + b"".join(_length(len(item)) + item for item in items))


def blobs(values: Sequence[bytes | None]) -> Blobs:
    """The array of ``values``, of which some may be NULL."""
    items = [_NULL if value is None else _length(len(value)) + value for value in values]
    return Blobs(_head(1, 1, _BYTEA, len(items), 1) + b"".join(items))


async def understand_arrays(connection: AsyncConnection) -> None:
    """Tells the driver's connection how to send the arrays of this module."""
    from apishield.stores.sql.ledger.array_dumpers import register  # noqa: PLC0415  loads psycopg, which SQLite needs not

    register(cast(Any, (await connection.get_raw_connection()).driver_connection))
