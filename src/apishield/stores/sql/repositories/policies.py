"""Policies."""

from __future__ import annotations

from sqlalchemy import func, select

from apishield.core.records import Policy
from apishield.stores.sql.dialects import array_length
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.base import TenantRepository
from apishield.stores.sql.tables import policies


class PoliciesRepository(TenantRepository[Policy]):
    """A tenant's policies."""

    table = policies
    record = Policy

    async def page(self, tenant_id: str, page: PageRequest) -> Page[Policy]:
        """The tenant's policies, newest first."""
        return await self._page(tenant_id, page)

    async def named(self, tenant_id: str, name: str) -> str | None:
        """The id of the policy of this name."""
        found: str | None = await self._connection.scalar(
            select(policies.c.id).where(*self._where(tenant_id, policies.c.name == name))
        )
        return found

    async def overrides_besides(self, tenant_id: str, policy_id: str) -> int:
        """How many overrides all of the tenant's policies but this one have."""
        others = self._where(tenant_id, policies.c.id != policy_id)
        length = array_length(self._connection, policies.c.overrides)
        return int(await self._connection.scalar(select(func.sum(length)).where(*others)) or 0)
