"""Tokens of the control plane."""

from __future__ import annotations

from apishield.core.records import Token
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.base import UsedRepository
from apishield.stores.sql.tables import tokens


class TokensRepository(UsedRepository[Token]):
    """A tenant's tokens."""

    table = tokens
    record = Token

    async def page(self, tenant_id: str, page: PageRequest) -> Page[Token]:
        """The tenant's tokens, newest first, revoked ones included."""
        return await self._page(tenant_id, page)
