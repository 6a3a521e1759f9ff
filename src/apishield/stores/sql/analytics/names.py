"""What keys and customers are called, for answers that name them by id. Always within one tenant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.stores.sql.dialects import among
from apishield.stores.sql.tables import customers, keys


class KeyName(msgspec.Struct, frozen=True):
    """What a key is called, and whose it is now."""

    name: str
    hint: str
    customer_id: str | None


class CustomerName(msgspec.Struct, frozen=True):
    """What a customer is called, here and in the tenant's own books."""

    name: str
    external_id: str | None


class NameReader:
    """Looks names up within one tenant. What was deleted, or is another tenant's, has none."""

    def __init__(self, connection: AsyncConnection, tenant_id: str) -> None:
        self._connection = connection
        self._tenant_id = tenant_id

    async def keys(self, ids: Iterable[str]) -> Mapping[str, KeyName]:
        """The names of keys by id."""
        columns = (keys.c.id, keys.c.name, keys.c.hint, keys.c.customer_id)
        named = among(self._connection, keys.c.id, [each for each in ids if each])
        statement = select(*columns).where(keys.c.tenant_id == self._tenant_id, named)
        return {row.id: KeyName(*row[1:]) for row in await self._connection.execute(statement)}

    async def customers(self, ids: Iterable[str]) -> Mapping[str, CustomerName]:
        """The names of customers by id."""
        columns = (customers.c.id, customers.c.name, customers.c.external_id)
        named = among(self._connection, customers.c.id, [each for each in ids if each])
        statement = select(*columns).where(customers.c.tenant_id == self._tenant_id, named)
        return {row.id: CustomerName(*row[1:]) for row in await self._connection.execute(statement)}
