"""What all repositories of a tenant's things share. Here, and nowhere else, a query is bound to its tenant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from sqlalchemy import ColumnElement, Select, Table, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.stores.sql.pagination import Page, PageRequest, make_cursor, read_cursor


class Owned(Protocol):
    """A record with an id, of one tenant (or, where ``None`` is allowed, of the operator)."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def tenant_id(self) -> str | None:
        """Whose it is."""
        ...


Record = TypeVar("Record", bound=Owned)


class TenantRepository(Generic[Record]):
    """Reads and writes the records of one table, always within one tenant.

    A subclass names its table and record, whose fields are the table's columns.
    """

    table: ClassVar[Table]
    record: ClassVar[type[Any]]
    volatile: ClassVar[frozenset[str]] = frozenset()
    """Columns that are written behind, by their own method, and never by ``replace``."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    def _where(self, tenant_id: str | None, *conditions: ColumnElement[bool]) -> list[ColumnElement[bool]]:
        """The one place of tenancy: ``conditions`` within the tenant; ``None`` is the operator's own."""
        column = self.table.c.tenant_id
        return [column.is_(None) if tenant_id is None else column == tenant_id, *conditions]

    def _record(self, row: Any) -> Record:
        record: Record = self.record(**row._mapping)
        return record

    async def _all(self, statement: Select[Any]) -> list[Record]:
        return [self._record(row) for row in await self._connection.execute(statement)]

    async def get(self, tenant_id: str | None, object_id: str) -> Record | None:
        """The tenant's object with this id; ``None`` for another tenant's, as for one that never was."""
        if not (object_id.isascii() and object_id.isprintable()):
            return None  # no id of ours; PostgreSQL would choke on some of these
        found = await self._all(select(self.table).where(*self._where(tenant_id, self.table.c.id == object_id)))
        return found[0] if found else None

    async def insert(self, tenant_id: str | None, record: Record) -> None:
        """Adds a record of this tenant."""
        await self.insert_many(tenant_id, [record])

    async def insert_many(self, tenant_id: str | None, records: Iterable[Record]) -> None:
        """Adds records of this tenant."""
        rows = [self._row(tenant_id, record) for record in records]
        if rows:
            await self._connection.execute(insert(self.table), rows)

    async def replace(self, tenant_id: str | None, record: Record) -> None:
        """Writes the record's fields over those of the row with its id, except the volatile ones."""
        row = {name: value for name, value in self._row(tenant_id, record).items() if name not in self.volatile}
        await self._connection.execute(
            update(self.table).where(*self._where(tenant_id, self.table.c.id == record.id)).values(row)
        )

    async def delete(self, tenant_id: str | None, object_id: str) -> None:
        """Removes the tenant's object with this id, where there is one."""
        await self._connection.execute(delete(self.table).where(*self._where(tenant_id, self.table.c.id == object_id)))

    async def count(self, tenant_id: str | None, *, at_most: int) -> int:
        """How many the tenant has; counting ends at ``at_most``."""
        return await self._count(tenant_id, at_most)

    async def _count(self, tenant_id: str | None, at_most: int, *conditions: ColumnElement[bool]) -> int:
        some = select(self.table.c.id).where(*self._where(tenant_id, *conditions)).limit(at_most).subquery()
        return int(await self._connection.scalar(select(func.count()).select_from(some)) or 0)

    async def _page(
        self, tenant_id: str | None, page: PageRequest, conditions: Iterable[ColumnElement[bool]] = ()
    ) -> Page[Record]:
        where = self._where(tenant_id, *conditions)
        if page.cursor is not None:
            where.append(self.table.c.id < read_cursor(self.table.name, page.cursor))
        found = await self._all(select(self.table).where(*where).order_by(self.table.c.id.desc()).limit(page.limit + 1))
        items = found[: page.limit]
        return Page(items, make_cursor(self.table.name, items[-1].id) if len(found) > len(items) else None)

    @staticmethod
    def _row(tenant_id: str | None, record: Record) -> dict[str, Any]:
        if record.tenant_id != tenant_id:
            message = f"{record.id} is of {record.tenant_id}, not of {tenant_id}"
            raise ValueError(message)
        return row_of(record)


class UsedRepository(TenantRepository[Record]):
    """Records that remember when they were last used, which is written behind and in batches."""

    volatile = frozenset({"last_used_at_us"})

    async def touch(self, last_used: Mapping[str, int]) -> None:
        """Notes when objects, by id, were last used. Never goes back, so that nodes may write in any order.

        The ids come from the snapshot of credentials that were just verified; no tenant names them.
        """
        if not last_used:
            return
        column = self.table.c.last_used_at_us
        statement = (
            update(self.table)
            .where(self.table.c.id == bindparam("object_id"), or_(column.is_(None), column < bindparam("used_at_us")))
            .values(last_used_at_us=bindparam("used_at_us"))
        )
        # In order of ids, so that two nodes that write the same rows can't wait for each other.
        rows = [{"object_id": object_id, "used_at_us": last_used[object_id]} for object_id in sorted(last_used)]
        await self._connection.execute(statement, rows)


def row_of(record: Any) -> dict[str, Any]:
    """The fields of a struct as a row."""
    return {field: getattr(record, field) for field in record.__struct_fields__}
