"""What is written differently for the two databases comes to the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, LargeBinary, Subquery, Text, func, literal, select, union_all

from apishield.stores.sql.database import Database
from apishield.stores.sql.dialects import among, joined

TEXTS = ["plain", "it's", 'a "quote"', "back\\slash", "{curly, array}", "größe", "", "NULL"]


def rows(type_: Any, found: Sequence[Any]) -> Subquery:
    return union_all(*(select(literal(value, type_).label("value")) for value in found)).subquery()


async def test_bytes_are_joined_as_they_are(database: Database) -> None:
    parts = [bytes(range(256)), b"\0\0", b"\xff\xfe", b"", None]
    column = rows(LargeBinary, parts).c.value
    async with database.read() as tx:
        found = await tx.connection.scalar(select(joined(column)))
        nothing = await tx.connection.scalar(select(joined(column)).where(column.is_(None)))
    assert type(found) is bytes
    assert sorted(found) == sorted(b"".join(part or b"" for part in parts))
    assert bytes(range(256)) in found
    assert nothing is None


async def test_any_text_or_number_of_a_list_is_found(database: Database) -> None:
    texts = rows(Text, TEXTS)
    numbers = rows(BigInteger, [1, 2, 2**40])
    async with database.read() as tx:
        for text in TEXTS:
            found = await tx.connection.scalars(
                select(texts.c.value).where(among(tx.connection, texts.c.value, [text]))
            )
            assert list(found) == [text]
        count = select(func.count()).select_from(numbers)
        assert await tx.connection.scalar(count.where(among(tx.connection, numbers.c.value, [1, 3]))) == 1
        assert await tx.connection.scalar(count.where(among(tx.connection, numbers.c.value, []))) == 0
