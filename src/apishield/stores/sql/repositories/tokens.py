"""Tokens of the control plane."""

from __future__ import annotations

from sqlalchemy import or_

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

    async def count_usable(self, tenant_id: str, *, now_us: int, at_most: int) -> int:
        """How many the tenant has that are neither revoked nor expired; counting ends at ``at_most``."""
        running = or_(tokens.c.expires_at_us.is_(None), tokens.c.expires_at_us > now_us)
        return await self._count(tenant_id, at_most, tokens.c.revoked_at_us.is_(None), running)
