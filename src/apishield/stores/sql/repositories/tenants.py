"""Tenants: the one kind of thing that no tenant owns."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.records import Tenant
from apishield.stores.sql.pagination import Page, PageRequest, make_cursor, read_cursor
from apishield.stores.sql.repositories.base import row_of
from apishield.stores.sql.tables import tenants


class TenantsRepository:
    """Reads and writes tenants. A deleted tenant's row stays, for its audit log and its bills, and is never given out."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, tenant_id: str) -> Tenant | None:
        """The tenant, unless there is none or it was deleted."""
        if not (tenant_id.isascii() and tenant_id.isprintable()):
            return None  # no id of ours; PostgreSQL would choke on some of these
        return await self._one(select(tenants).where(tenants.c.id == tenant_id, tenants.c.status != "deleted"))

    async def lock(self, tenant_id: str) -> Tenant | None:
        """The tenant, held until the end of the transaction.

        Whoever adds to what a tenant owns takes this first: ceilings and uniqueness are then checked one by one, and
        nothing is added to a tenant that is being deleted. SQLite has one writer anyway.
        """
        if not (tenant_id.isascii() and tenant_id.isprintable()):
            return None
        statement = select(tenants).where(tenants.c.id == tenant_id, tenants.c.status != "deleted")
        return await self._one(statement.with_for_update(key_share=True))

    async def insert(self, tenant: Tenant) -> None:
        """Adds a tenant."""
        await self._connection.execute(insert(tenants), row_of(tenant))

    async def replace(self, tenant: Tenant) -> None:
        """Writes the tenant's fields."""
        await self._connection.execute(update(tenants).where(tenants.c.id == tenant.id).values(row_of(tenant)))

    async def page(self, page: PageRequest) -> Page[Tenant]:
        """All tenants, newest first."""
        statement = select(tenants).where(tenants.c.status != "deleted")
        if page.cursor is not None:
            statement = statement.where(tenants.c.id < read_cursor("tenants", page.cursor))
        rows = await self._connection.execute(statement.order_by(tenants.c.id.desc()).limit(page.limit + 1))
        found = [_tenant(row) for row in rows]
        items = found[: page.limit]
        return Page(items, make_cursor("tenants", items[-1].id) if len(found) > len(items) else None)

    async def ids(self) -> list[str]:
        """The ids of all tenants, deleted ones included, oldest first."""
        return list(await self._connection.scalars(select(tenants.c.id).order_by(tenants.c.id)))

    async def _one(self, statement: Any) -> Tenant | None:
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else _tenant(row)


def _tenant(row: Any) -> Tenant:
    return Tenant(**row._mapping)
