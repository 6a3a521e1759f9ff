"""The change feed: what every node must look at again, numbered in the order of the commits.

Numbers are taken from one counter row, last in the transaction: its lock is held until the commit, so whoever sees a
number sees all that are smaller, and a poll that has read up to a number has missed nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import Row, Select, Table, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.model import SECOND_US
from apishield.core.ports import Change, ChangeKind, SnapshotRows
from apishield.core.records import Block, Customer, Endpoint, Key, Policy, Tenant, Token
from apishield.stores.sql.repositories.secret_hashes import hash_of, hashes_of
from apishield.stores.sql.tables import (
    blocks,
    change_counter,
    changes,
    customers,
    endpoints,
    keys,
    policies,
    secrets,
    tenants,
    tokens,
)

KEPT_US = 3_600 * SECOND_US
"""How far back the feed reaches at least."""

_PRUNED_EVERY = 256
_IDS_AT_ONCE = 500
_ROWS_AT_ONCE = 500
_OBJECTS: tuple[tuple[ChangeKind, str, Table, type[Any]], ...] = (
    ("tenant", "tenants", tenants, Tenant),
    ("token", "tokens", tokens, Token),
    ("key", "keys", keys, Key),
    ("customer", "customers", customers, Customer),
    ("policy", "policies", policies, Policy),
    ("endpoint", "endpoints", endpoints, Endpoint),
    ("block", "blocks", blocks, Block),
)


class ChangeFeed:
    """Implements ``core.ports.SnapshotSource``. ``connect`` opens a read-only view of one moment."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> None:
        self._connect = connect

    async def load(self) -> SnapshotRows:
        """Everything, as of one moment."""
        async with self._connect() as connection:
            counter = (await connection.execute(select(change_counter.c.last))).scalar_one()
            rows: dict[str, Any] = {name: await _read(connection, table, record) for _, name, table, record in _OBJECTS}
            for kind in ("key", "token"):
                rows[f"{kind}_secrets"] = await _read_hashes(connection, kind)
        return SnapshotRows(sequence=counter, **rows)

    async def changes_after(self, sequence: int) -> list[Change] | None:
        """What changed since, in order; ``None`` where ``load`` is needed.

        That is where the feed no longer reaches back so far, and where it has not yet come so far: then the database was
        put back to an earlier state.
        """
        async with self._connect() as connection:
            counter = (await connection.execute(select(change_counter))).one()
            if counter.last == sequence:
                return []
            if not counter.pruned_through <= sequence <= counter.last:
                return None
            columns = (changes.c.sequence, changes.c.tenant_id, changes.c.kind, changes.c.object_id)
            statement = select(*columns).where(changes.c.sequence > sequence).order_by(changes.c.sequence)
            return [Change(*row) for row in await connection.execute(statement)]

    async def load_objects(self, changes: Sequence[Change]) -> SnapshotRows:
        """The present state of the changed objects; one that is absent from the answer was deleted."""
        ids: defaultdict[ChangeKind, set[str]] = defaultdict(set)
        for change in changes:
            ids[change.kind].add(change.object_id)
        rows: dict[str, Any] = {}
        async with self._connect() as connection:
            for kind, name, table, record in _OBJECTS:
                for some in _slices(ids[kind]):
                    rows.setdefault(name, []).extend(await _read(connection, table, record, some))
                    if kind in ("key", "token"):
                        rows.setdefault(f"{kind}_secrets", []).extend(await _read_hashes(connection, kind, some))
        return SnapshotRows(sequence=max((change.sequence for change in changes), default=0), **rows)


async def append(
    connection: AsyncConnection, announced: Iterable[tuple[ChangeKind, str | None, str]], *, now_us: int
) -> int:
    """Numbers changes as the last act of a transaction; returns the last number."""
    entries = list(announced)
    last: int = (
        await connection.execute(
            update(change_counter)
            .where(change_counter.c.id == 1)
            .values(last=change_counter.c.last + len(entries))
            .returning(change_counter.c.last)
        )
    ).scalar_one()
    first = last - len(entries) + 1
    await connection.execute(
        insert(changes),
        [
            {"sequence": first + place, "kind": kind, "tenant_id": tenant_id, "object_id": object_id, "at_us": now_us}
            for place, (kind, tenant_id, object_id) in enumerate(entries)
        ],
    )
    if first // _PRUNED_EVERY != (last + 1) // _PRUNED_EVERY:
        await _prune(connection, before_us=now_us - KEPT_US)
    return last


async def _prune(connection: AsyncConnection, *, before_us: int) -> None:
    # Nodes' clocks differ a little, so times need not rise with the numbers: everything before the first kept one goes.
    first_kept = await connection.scalar(
        select(changes.c.sequence).where(changes.c.at_us >= before_us).order_by(changes.c.sequence).limit(1)
    )
    if first_kept is not None:
        await connection.execute(delete(changes).where(changes.c.sequence < first_kept))
        await connection.execute(update(change_counter).values(pruned_through=first_kept - 1))


async def _read(
    connection: AsyncConnection, table: Table, record: type[Any], ids: Sequence[str] | None = None
) -> list[Any]:
    statement = select(table)
    if table is tenants:
        statement = statement.where(tenants.c.status != "deleted")
    else:
        statement = statement.outerjoin(tenants, table.c.tenant_id == tenants.c.id).where(
            tenants.c.status.is_distinct_from("deleted")
        )
    if ids is not None:
        statement = statement.where(table.c.id.in_(ids))
    return await _streamed(connection, statement, lambda row: record(**row._mapping))


async def _read_hashes(connection: AsyncConnection, kind: Any, ids: Sequence[str] | None = None) -> list[Any]:
    statement = hashes_of(kind)
    if ids is not None:
        statement = statement.where(secrets.c.owner_id.in_(ids))
    return await _streamed(connection, statement, hash_of)


async def _streamed(connection: AsyncConnection, statement: Select[Any], read: Callable[[Row[Any]], Any]) -> list[Any]:
    """All rows, read in slices: a node that loads a large snapshot while it serves goes on serving."""
    found: list[Any] = []
    async with connection.stream(statement) as rows:
        async for some in rows.partitions(_ROWS_AT_ONCE):
            found += [read(row) for row in some]
    return found


def _slices(ids: set[str]) -> Iterable[list[str]]:
    ordered = sorted(ids)
    return (ordered[start : start + _IDS_AT_ONCE] for start in range(0, len(ordered), _IDS_AT_ONCE))
