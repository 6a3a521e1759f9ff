"""The busiest addresses, hour by hour. Always within one tenant and environment."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.records import Environment
from apishield.stores.sql.dialects import added_up
from apishield.stores.sql.ledger.tables import address_hour


class AddressCounts(msgspec.Struct, frozen=True):
    """Checks of one address, an IPv6 address's /64; ``""`` stands for all that are not told apart."""

    address: str
    requests: int
    refused: int


class AddressReader:
    """Counts by address within one tenant and environment."""

    def __init__(self, connection: AsyncConnection, tenant_id: str, environment: Environment) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self._environment = environment

    def _where(self, from_s: int, to_s: int) -> list[ColumnElement[bool]]:
        """The one place of tenancy."""
        column = address_hour.c
        return [
            column.tenant_id == self._tenant_id,
            column.environment == self._environment.value,
            column.bucket >= from_s,
            column.bucket < to_s,
        ]

    async def top(self, from_s: int, to_s: int, limit: int) -> Sequence[AddressCounts]:
        """The ``limit`` addresses with most checks in the hours that begin from ``from_s`` on and before ``to_s``."""
        column = address_hour.c
        requests, refused = added_up(column.requests), added_up(column.refused)
        statement = select(column.address, requests, refused).where(*self._where(from_s, to_s), column.address != "")
        statement = statement.group_by(column.address).order_by(requests.desc(), column.address).limit(limit)
        rows = await self._connection.execute(statement)
        return [AddressCounts(address, int(asked), int(denied)) for address, asked, denied in rows]

    async def total(self, from_s: int, to_s: int) -> AddressCounts:
        """All addresses together."""
        column = address_hour.c
        statement = select(added_up(column.requests), added_up(column.refused)).where(*self._where(from_s, to_s))
        requests, refused = (await self._connection.execute(statement)).one()
        return AddressCounts("", int(requests or 0), int(refused or 0))
