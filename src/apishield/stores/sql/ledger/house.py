"""What keeps the ledger small: deletes what is older than it is kept, a bounded piece at a time.

Deleted row by row, on both databases alike, and not by partitions: the rows of a set lie in the order of time, so the oldest
are found at once and are few (minutes and hours were summed already); a table of its own for each day would have to be made
ahead by a job, and a job that did not run would stop the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.stores.sql.ledger.statements import delete_some, run, select_rows

PIECE_S: Final = {"minute": 600, "hour": 86_400}
"""How much of a set is deleted at once: some ten thousand rows at most."""


async def all_sets(connection: AsyncConnection) -> Sequence[int]:
    """The numbers of all sets."""
    return [set_id for (set_id,) in await select_rows(connection, "SELECT id FROM series_sets ORDER BY id")]


async def all_tenants(connection: AsyncConnection) -> Sequence[str]:
    """All tenants that the ledger tells of."""
    return [tenant for (tenant,) in await select_rows(connection, "SELECT DISTINCT tenant_id FROM series_sets")]


async def oldest(connection: AsyncConnection, step: str, set_id: int) -> int | None:
    """The oldest bucket of a set."""
    statement = f"SELECT min(bucket) FROM rollup_{step} WHERE set_id = ?"  # noqa: S608  minute or hour
    bucket: int | None = (await select_rows(connection, statement, (set_id,)))[0][0]
    return bucket


async def forget_buckets(connection: AsyncConnection, step: str, set_id: int, before_s: int) -> int:
    """Deletes a set's buckets that began before. Returns how many rows it was."""
    units = "DELETE FROM rollup_units WHERE step = ? AND set_id = ? AND bucket < ?"
    await run(connection, units, (step, set_id, before_s))
    statement = f"DELETE FROM rollup_{step} WHERE set_id = ? AND bucket < ?"  # noqa: S608  minute or hour
    return await run(connection, statement, (set_id, before_s))


async def forget_decisions(connection: AsyncConnection, tenant_id: str, before_us: int, at_most: int) -> int:
    """Deletes up to ``at_most`` of a tenant's chunks whose decisions were all made before. Returns how many it was."""
    deleted = 0
    for kind in ("decision", "result"):
        where = "tenant_id = ? AND kind = ? AND to_us < ?"
        deleted += await delete_some(
            connection, "decision_chunks", ("id",), where, (tenant_id, kind, before_us), at_most
        )
    return deleted


async def forget_addresses(connection: AsyncConnection, tenant_id: str, before_s: int, at_most: int) -> int:
    """Deletes up to ``at_most`` of a tenant's addresses of hours that began before. Returns how many it was."""
    key = ("tenant_id", "environment", "bucket", "address")
    deleted = 0
    for environment in ("live", "test"):
        where = "tenant_id = ? AND environment = ? AND bucket < ?"
        deleted += await delete_some(
            connection, "address_hour", key, where, (tenant_id, environment, before_s), at_most
        )
    return deleted
