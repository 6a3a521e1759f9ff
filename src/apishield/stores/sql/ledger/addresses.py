"""Checks by address and hour: the busiest addresses by name, all others together as ``''``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.stores.sql.ledger.statements import Row, run, select_rows
from apishield.stores.sql.ledger.sums import add_rows
from apishield.stores.sql.ledger.tables import address_hour

OF_AN_INTAKE: Final = 200
OF_AN_HOUR: Final = 1_000
OTHERS: Final = ""

Counts = Mapping[tuple[str, str, int, str], Sequence[int]]


def address_rows(counts: Counts) -> list[Row]:
    """Rows of ``address_hour``: for each tenant, environment and hour the busiest addresses, and the rest as one."""
    groups: defaultdict[tuple[str, str, int], list[tuple[int, int, str]]] = defaultdict(list)
    for (tenant_id, environment, hour_s, address), (requests, refused) in counts.items():
        groups[tenant_id, environment, hour_s].append((requests, refused, address))
    rows: list[Row] = []
    for group, found in groups.items():
        found.sort(reverse=True)
        rows += [(*group, address, requests, refused) for requests, refused, address in found[:OF_AN_INTAKE]]
        rest = found[OF_AN_INTAKE:]
        if rest:
            rows.append((*group, OTHERS, sum(one[0] for one in rest), sum(one[1] for one in rest)))
    return sorted(rows)


async def crowded_hours(connection: AsyncConnection, since_s: int, until_s: int) -> Sequence[tuple[str, str, int]]:
    """Tenant, environment and hour of where more addresses are kept than shall be."""
    statement = (
        "SELECT tenant_id, environment, bucket FROM address_hour WHERE bucket >= ? AND bucket < ? "
        "GROUP BY tenant_id, environment, bucket HAVING count(*) > ?"
    )
    rows = await select_rows(connection, statement, (since_s, until_s, OF_AN_HOUR + 1))
    return [(tenant_id, environment, bucket) for tenant_id, environment, bucket in rows]


async def thin_out(connection: AsyncConnection, tenant_id: str, environment: str, bucket: int) -> int:
    """Keeps the busiest addresses of an hour and adds up the rest. Returns how many lost their name."""
    place = (tenant_id, environment, bucket)
    same = "tenant_id = ? AND environment = ? AND bucket = ?"
    rows = await select_rows(
        connection,
        f"SELECT address, requests, refused FROM address_hour WHERE {same} AND address <> '' "  # noqa: S608  names of ours
        "ORDER BY requests DESC, address",
        place,
    )
    removed = 0
    totals = [0, 0]
    for address, requests, refused in rows[OF_AN_HOUR:]:
        # Only as it was read: a worker may have counted on meanwhile, then it stays till the next time.
        removed += (
            deleted := await run(
                connection,
                f"DELETE FROM address_hour WHERE {same} AND address = ? AND requests = ?",  # noqa: S608  names of ours
                (*place, address, requests),
            )
        )
        totals = [totals[0] + requests * deleted, totals[1] + refused * deleted]
    if removed:
        await add_rows(connection, address_hour, [(*place, OTHERS, *totals)])
    return removed
