"""Events for tests of the ledger, and what its tables say of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import text

from apishield.core.events import (
    CATALOGUED,
    DecisionEvent,
    Event,
    Frame,
    Intake,
    ResultEvent,
    SettlementEvent,
    SpoolPart,
    encode_events,
)
from apishield.stores.sql.database import Database
from tests.support.clock import START_US

SPOOL = 0xA1
TENANT = "ten_ledger"
STEPS = ("minute", "hour", "day")
DIMS = ("tenant", "key", "endpoint", "country", "full")
MEASURES = ("requests", "cost", "bytes", "results", "status_2xx", "status_4xx", "status_5xx", "latency_us")


def decision(sequence: int, at_us: int = START_US, **fields: Any) -> DecisionEvent:
    """A decision of ``TENANT`` that was let through, unless ``fields`` say otherwise."""
    given = {
        "tenant_id": TENANT,
        "code": "ok",
        "flags": CATALOGUED,
        "key_id": "key_1",
        "method": "GET",
        "path": "/orders/7",
        "endpoint": "/orders/{id}",
        "address": "203.0.113.7",
        "country": "DE",
        "units": 1,
    }
    return DecisionEvent(sequence=sequence, at_us=at_us, **{**given, **fields})


def result(of: DecisionEvent, *, spool: int = SPOOL, after_us: int = 50_000, **fields: Any) -> ResultEvent:
    """What the API answered to a decision."""
    given = {"tenant_id": of.tenant_id, "status": 200, "latency_us": 20_000, "bytes": 100}
    place = {"spool": spool, "sequence": of.sequence, "decided_at_ms": of.at_us // 1000}
    return ResultEvent(**{**place, "at_us": of.at_us + after_us, **given, **fields})


def settlement(
    of: DecisionEvent, units: dict[str, int], *, spool: int = SPOOL, released: bool = False
) -> SettlementEvent:
    """What a decision cost in the end."""
    return SettlementEvent(
        spool, of.sequence, of.at_us // 1000, of.tenant_id, of.at_us + 1_000_000, units, released=released
    )


def frames(turns: Iterable[Sequence[Event]], position: int = 0) -> list[Frame]:
    """One frame a turn, each 100 positions long."""
    made = []
    for events in turns:
        buffer = bytearray()
        encode_events(list(events), buffer, 0)
        position += 100
        made.append(Frame(position, bytes(buffer)))
    return made


def intake(*turns: Sequence[Event], start: int = 0, spool: int = SPOOL, stream: str | None = None) -> Intake:
    """Turns of one spool, which begin at ``start``."""
    made = frames(turns, start)
    return Intake(stream or f"spool:{spool:08x}", start, made[-1].end, [SpoolPart(spool, made)])


async def sums(database: Database, dims: str = "tenant", step: str = "day", tenant_id: str = TENANT) -> dict[str, int]:
    """The tenant's totals as a grouping set has them."""
    columns = ", ".join(f"coalesce(sum(r.{name}), 0)" for name in MEASURES)
    statement = (
        f"SELECT {columns} FROM rollup_{step} r JOIN series_sets s ON s.id = r.set_id "
        "WHERE s.tenant_id = :tenant AND s.dims = :dims"
    )
    async with database.read() as work:
        row = (await work.connection.execute(text(statement), {"tenant": tenant_id, "dims": dims})).one()
    return dict(zip(MEASURES, map(int, row), strict=True))


async def same_everywhere(database: Database, tenant_id: str = TENANT) -> dict[str, int]:
    """The tenant's totals, which all grouping sets and all lengths of time must agree on."""
    totals = await sums(database, tenant_id=tenant_id)
    for dims in DIMS:
        for step in STEPS:
            assert await sums(database, dims, step, tenant_id) == totals, (dims, step)
    assert await sums(database, "key", "week", tenant_id) == totals, "weeks"
    return totals


async def units(database: Database, step: str = "day", dims: str = "key", tenant_id: str = TENANT) -> dict[str, int]:
    """The tenant's cost by unit, ``requests`` among them."""
    statement = (
        "SELECT u.unit, sum(u.cost) FROM rollup_units u JOIN series_sets s ON s.id = u.set_id "
        "WHERE s.tenant_id = :tenant AND s.dims = :dims AND u.step = :step GROUP BY u.unit"
    )
    found: defaultdict[str, int] = defaultdict(int)
    async with database.read() as work:
        rows = await work.connection.execute(text(statement), {"tenant": tenant_id, "dims": dims, "step": step})
        found.update({unit: int(cost) for unit, cost in rows if cost})
    found["requests"] = (await sums(database, dims, step, tenant_id))["cost"]
    return dict(found)


async def rows(database: Database, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """What a query finds."""
    async with database.read() as work:
        return [tuple(row) for row in await work.connection.execute(text(statement), parameters)]
