"""API keys."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, and_, func, or_, select

from apishield.core.key_manager.lifecycle import Status
from apishield.core.records import Key
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.base import UsedRepository
from apishield.stores.sql.tables import keys


class KeysRepository(UsedRepository[Key]):
    """A tenant's API keys."""

    table = keys
    record = Key

    async def page(
        self,
        tenant_id: str,
        page: PageRequest,
        *,
        now_us: int,
        status: Status | None = None,
        customer_id: str | None = None,
        query: str | None = None,
    ) -> Page[Key]:
        """The tenant's keys, newest first. ``query`` is looked for in the name and the hint, and may be a whole id."""
        conditions: list[ColumnElement[bool]] = []
        if status is not None:
            conditions.append(_has_status(status, now_us))
        if customer_id is not None:
            conditions.append(keys.c.customer_id == customer_id)
        if query is not None:
            contains = [column.icontains(query, autoescape=True) for column in (keys.c.name, keys.c.hint)]
            conditions.append(or_(keys.c.id == query, *contains))
        return await self._page(tenant_id, page, conditions)

    async def count(self, tenant_id: str | None, *, at_most: int) -> int:
        """How many the tenant has that are not revoked; an expired one counts, since a later expiry revives it."""
        return await self._count(tenant_id, at_most, keys.c.revoked_at_us.is_(None))

    async def of_customer(self, tenant_id: str, customer_id: str) -> int:
        """How many keys belong to a customer, whatever their state."""
        where = self._where(tenant_id, keys.c.customer_id == customer_id)
        return int(await self._connection.scalar(select(func.count()).select_from(keys).where(*where)) or 0)


def _has_status(status: Status, now_us: int) -> ColumnElement[bool]:
    """``core.key_manager.lifecycle.status`` in SQL; a test holds both equal."""
    kept = keys.c.revoked_at_us.is_(None)
    ended = and_(keys.c.expires_at_us.is_not(None), keys.c.expires_at_us <= now_us)
    running: Iterable[ColumnElement[bool]] = (kept, or_(keys.c.expires_at_us.is_(None), keys.c.expires_at_us > now_us))
    match status:
        case "revoked":
            return keys.c.revoked_at_us.is_not(None)
        case "expired":
            return and_(kept, ended)
        case "disabled":
            return and_(*running, keys.c.enabled.is_(False))
        case "active":
            return and_(*running, keys.c.enabled.is_(True))
