"""Results and settlements whose decision has not been written yet: another stream brings it, sooner or later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.events import Event, ResultEvent, SettlementEvent, decode_events
from apishield.stores.sql.ledger.statements import Row, is_postgresql, run_many, select_rows

FIRST_PAUSE_US: Final = 200_000
LONGEST_PAUSE_US: Final = 600_000_000

Late = ResultEvent | SettlementEvent


class Waiting(msgspec.Struct, frozen=True):
    """One that waits: its row, and what it says."""

    id: int
    at_us: int
    tries: int
    event: Late


async def count_waiting(connection: AsyncConnection, tenants: Iterable[str]) -> dict[str, int]:
    """How many wait, by tenant."""
    statement = "SELECT count(*) FROM ledger_pending WHERE tenant_id = ?"
    return {tenant: (await select_rows(connection, statement, (tenant,)))[0][0] for tenant in tenants}


async def add_waiting(connection: AsyncConnection, events: Sequence[Late], now_us: int) -> None:
    """Keeps events until their decision is there."""
    statement = (
        "INSERT INTO ledger_pending (tenant_id, spool, sequence, event, at_us, tries, next_us) "
        "VALUES (?, ?, ?, ?, ?, 0, ?)"
    )
    rows: list[Row] = [
        (
            event.tenant_id,
            event.spool,
            event.sequence,
            msgspec.msgpack.encode([event]),
            min(event.decided_at_ms * 1000, now_us),  # one from the future would wait for ever
            now_us + FIRST_PAUSE_US,
        )
        for event in events
    ]
    await run_many(connection, statement, rows)


async def is_due(connection: AsyncConnection, now_us: int) -> bool:
    """Whether the decision of any is to be looked for."""
    return bool(await select_rows(connection, "SELECT 1 FROM ledger_pending WHERE next_us <= ? LIMIT 1", (now_us,)))


async def take_due(connection: AsyncConnection, now_us: int, at_most: int) -> list[Waiting]:
    """Those whose decision is to be looked for, held until the transaction ends; other workers pass them by."""
    held = "FOR UPDATE SKIP LOCKED" if is_postgresql(connection) else ""  # SQLite has one writer
    statement = (
        f"SELECT id, at_us, tries, event FROM ledger_pending WHERE next_us <= ? "  # noqa: S608  ours
        f"ORDER BY next_us LIMIT {at_most} {held}"
    )
    rows = await select_rows(connection, statement, (now_us,))
    return [Waiting(row_id, at_us, tries, _late(decode_events(event))) for row_id, at_us, tries, event in rows]


def _late(events: list[Event]) -> Late:
    event = events[0]
    assert isinstance(event, ResultEvent | SettlementEvent)
    return event


async def drop(connection: AsyncConnection, waiting: Iterable[Waiting]) -> int:
    """Forgets those that wait no longer. Returns how many there were; fewer where another worker has had some."""
    return await run_many(connection, "DELETE FROM ledger_pending WHERE id = ?", sorted((one.id,) for one in waiting))


async def postpone(connection: AsyncConnection, waiting: Iterable[Waiting], now_us: int) -> None:
    """Lets them wait for longer each time."""
    rows = [(now_us + min(LONGEST_PAUSE_US, FIRST_PAUSE_US << min(one.tries + 1, 20)), one.id) for one in waiting]
    await run_many(connection, "UPDATE ledger_pending SET tries = tries + 1, next_us = ? WHERE id = ?", rows)
