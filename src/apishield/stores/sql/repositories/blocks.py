"""Blocks and allows, of a tenant or (``tenant_id`` is ``None``) of the operator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sqlalchemy import ColumnElement, and_, or_, select

from apishield.core.records import Block
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.base import TenantRepository
from apishield.stores.sql.tables import blocks

Action = Literal["block", "allow"]
BlockSource = Literal["manual", "auto"]


class BlocksRepository(TenantRepository[Block]):
    """A tenant's blocks and allows."""

    table = blocks
    record = Block

    async def page(
        self,
        tenant_id: str | None,
        page: PageRequest,
        *,
        now_us: int,
        action: Action,
        active: bool | None = None,
        source: BlockSource | None = None,
        values: Iterable[tuple[str, str]] | None = None,
    ) -> Page[Block]:
        """Blocks (or allows), newest first. ``values`` are pairs of kind and value, any of which will do."""
        conditions: list[ColumnElement[bool]] = [blocks.c.action == action]
        if active is not None:
            running = or_(blocks.c.expires_at_us.is_(None), blocks.c.expires_at_us > now_us)
            conditions.append(running if active else blocks.c.expires_at_us <= now_us)
        if source is not None:
            conditions.append(blocks.c.source == source)
        if values is not None:
            conditions.append(or_(*(and_(blocks.c.kind == kind, blocks.c.value == value) for kind, value in values)))
        return await self._page(tenant_id, page, conditions)

    async def of_value(self, tenant_id: str | None, action: Action, kind: str, value: str) -> Block | None:
        """The block (or allow) of exactly this value, expired or not."""
        own = self._where(tenant_id, blocks.c.action == action, blocks.c.kind == kind, blocks.c.value == value)
        found = await self._all(select(blocks).where(*own))
        return found[0] if found else None
