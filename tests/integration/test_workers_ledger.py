"""From the spools of processes into the tables of both databases, each decision once, whatever is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from apishield.core.events import Event
from apishield.services.drain import SpoolDrain
from apishield.services.ledger import LedgerService
from apishield.stores.spool import Spools, SpoolWriter
from apishield.stores.sql.database import Database
from apishield.workers.ledger import LedgerWorker
from tests.support.clock import START_US, ManualClock
from tests.support.database import SECRETS
from tests.support.ledger import decision, result, same_everywhere, settlement, units
from tests.support.processes import wait_until
from tests.support.services import PostgresServer
from tests.support.spool import SPOOL, MemoryLedger, spooled

MEGABYTE = 1024 * 1024


def write(writer: SpoolWriter, *events: Event) -> None:
    for event in events:
        writer.append(event)
    writer.flush()


def turn(spool: int, first: int, number: int) -> list[Event]:
    """Decisions, each tenth of them refused, with results of most and settlements of some."""
    events: list[Event] = []
    for sequence in range(first, first + number):
        refused = sequence % 10 == 0
        made = decision(sequence, START_US + sequence, code="rate_limited" if refused else "ok", units={"tokens": 5})
        events.append(made)
        if not refused and sequence % 3:
            events.append(result(made, spool=spool))
        if not refused and sequence % 7 == 0:
            events.append(settlement(made, {"tokens": 3}, spool=spool))
    return events


def expected(numbers: list[int]) -> tuple[int, int, int]:
    """Requests, results and tokens of spools with so many decisions each."""
    kept = [sequence for number in numbers for sequence in range(number) if sequence % 10]
    tokens = sum(3 if sequence % 7 == 0 else 5 for sequence in kept)
    return sum(numbers), sum(sequence % 3 != 0 for sequence in kept), tokens


@pytest.mark.parametrize("seed", range(3))
async def test_a_drain_that_is_interrupted_anywhere_takes_each_decision_once(
    database: Database, clock: ManualClock, tmp_path: Path, seed: int
) -> None:
    chance, root, numbers = random.Random(seed), tmp_path / "spool", [0, 0]
    writers = [SpoolWriter(root, SPOOL + number, clock) for number in range(2)]
    drain = None
    for _ in range(40):
        number = chance.randrange(2)
        some = chance.randrange(1, 60)
        write(writers[number], *turn(SPOOL + number, numbers[number], some))
        numbers[number] += some
        if drain is None or chance.random() < 0.3:  # another worker takes over, and knows nothing
            if drain is not None:
                drain.close()
            ledger = LedgerService(database, clock)
            drain = SpoolDrain(Spools(root, max_bytes=MEGABYTE), ledger, clock, owner=f"worker {chance.random()}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(drain.step(), chance.choice([0.001, 0.01, 5]))
    for writer in writers:
        writer.close()
    assert drain is not None
    await drain.catch_up()
    drain.close()
    totals = await same_everywhere(database)
    requests, results, tokens = expected(numbers)
    assert (totals["requests"], totals["results"]) == (requests, results)
    assert (await units(database))["tokens"] == tokens
    assert [path.name for path in root.iterdir()] == ["drain.lock"]


async def test_while_the_database_is_away_events_wait_and_then_all_are_taken(
    postgres_server: PostgresServer, postgres_url: str, clock: ManualClock, tmp_path: Path
) -> None:
    database = Database(postgres_url, clock, audit_key=SECRETS.audit_key())
    await database.migrate()
    root, stopping = tmp_path / "spool", asyncio.Event()
    writer = SpoolWriter(root, SPOOL, clock)
    ledger = LedgerService(database, clock)
    worker = LedgerWorker(root, ledger, clock, owner="worker", max_bytes=MEGABYTE, interval_seconds=0.01)
    running = asyncio.create_task(worker.run(stopping, finish_within_seconds=60))
    try:
        write(writer, *turn(SPOOL, 0, 100))
        await asyncio.to_thread(wait_until, lambda: ledger.stats.events > 0, "the first events")
        await asyncio.to_thread(postgres_server.kill)
        write(writer, *turn(SPOOL, 100, 100))
        await asyncio.to_thread(wait_until, lambda: worker.loop.failing, "the worker to notice")
    finally:
        await asyncio.to_thread(postgres_server.heal)
    await asyncio.to_thread(wait_until, lambda: not worker.loop.failing, "the worker to go on")
    write(writer, *turn(SPOOL, 200, 100))
    writer.close()
    stopping.set()
    await running
    assert (await same_everywhere(database))["requests"] == 300
    assert not (root / "0a1b2c3d").exists()
    await database.close()


async def test_a_worker_that_is_told_to_stop_takes_what_is_left(clock: ManualClock, tmp_path: Path) -> None:
    ledger, stopping = MemoryLedger(), asyncio.Event()
    writer = SpoolWriter(tmp_path, SPOOL, clock)
    worker = LedgerWorker(tmp_path, ledger, clock, owner="worker", max_bytes=MEGABYTE, interval_seconds=3600)
    running = asyncio.create_task(worker.run(stopping, finish_within_seconds=60))
    await asyncio.sleep(0)
    events = turn(SPOOL, 0, 5)
    write(writer, *events)
    stopping.set()
    await running
    assert ledger.events == events


async def test_a_worker_that_is_told_to_stop_does_not_wait_for_a_database_for_ever(
    clock: ManualClock, tmp_path: Path
) -> None:
    class Frozen(MemoryLedger):
        async def settle_pending(self) -> int:
            await asyncio.Event().wait()
            return 0

    stopping = asyncio.Event()
    writer = SpoolWriter(tmp_path, SPOOL, clock)
    write(writer, *turn(SPOOL, 0, 5))
    stopping.set()
    worker = LedgerWorker(tmp_path, Frozen(), clock, owner="worker", max_bytes=MEGABYTE)
    await worker.run(stopping, finish_within_seconds=0)
    writer.close()
    assert spooled(tmp_path) == turn(SPOOL, 0, 5)  # it waits for the next start
    assert Spools(tmp_path, max_bytes=MEGABYTE).hold()  # nobody holds the lock
