"""The catalogue of endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, bindparam, select, update

from apishield.core.records import Endpoint
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.base import TenantRepository
from apishield.stores.sql.tables import endpoints


class EndpointsRepository(TenantRepository[Endpoint]):
    """A tenant's endpoints."""

    table = endpoints
    record = Endpoint

    async def page(self, tenant_id: str, page: PageRequest) -> Page[Endpoint]:
        """The tenant's endpoints, newest first."""
        return await self._page(tenant_id, page)

    async def all(self, tenant_id: str) -> list[Endpoint]:
        """The whole catalogue of the tenant."""
        return await self._all(select(endpoints).where(*self._where(tenant_id)))

    async def replace_many(self, tenant_id: str, records: Sequence[Endpoint]) -> None:
        """Writes the fields of many endpoints over those of the rows with their ids."""
        rows = [{f"new_{name}": value for name, value in self._row(tenant_id, record).items()} for record in records]
        if rows:
            names = [name for name in Endpoint.__struct_fields__ if name != "id"]
            fields: dict[str, BindParameter[Any]] = {name: bindparam(f"new_{name}") for name in names}
            own = self._where(tenant_id, endpoints.c.id == bindparam("new_id"))
            await self._connection.execute(update(endpoints).where(*own).values(fields), rows)

    async def by_shape(self, tenant_id: str, method: str, shape: str) -> Endpoint | None:
        """The endpoint of this method and shape."""
        own = self._where(tenant_id, endpoints.c.method == method, endpoints.c.shape == shape)
        found = await self._all(select(endpoints).where(*own))
        return found[0] if found else None
