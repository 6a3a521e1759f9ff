"""Customers of tenants."""

from __future__ import annotations

from sqlalchemy import or_, select

from apishield.core.records import Customer
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.base import TenantRepository
from apishield.stores.sql.tables import customers


class CustomersRepository(TenantRepository[Customer]):
    """A tenant's customers."""

    table = customers
    record = Customer

    async def page(self, tenant_id: str, page: PageRequest, *, query: str | None = None) -> Page[Customer]:
        """The tenant's customers, newest first. ``query`` is looked for in the name, the email and the external id."""
        if query is None:
            return await self._page(tenant_id, page)
        columns = (customers.c.name, customers.c.email, customers.c.external_id)
        contains = [column.icontains(query, autoescape=True) for column in columns]
        return await self._page(tenant_id, page, [or_(customers.c.id == query, *contains)])

    async def by_external_id(self, tenant_id: str, external_id: str) -> Customer | None:
        """The customer that the tenant knows by ``external_id``."""
        found = await self._all(
            select(customers).where(*self._where(tenant_id, customers.c.external_id == external_id))
        )
        return found[0] if found else None
