"""Parts of the way from a spool through Kafka to the ledger, for tests and benchmarks of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import select

from apishield.core.events import HELD, DecisionEvent, Event, ResultEvent, SettlementEvent
from apishield.core.ports import Clock
from apishield.services.ledger import LedgerService
from apishield.settings import Settings
from apishield.stores.spool import SpoolWriter
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.tables import (
    MEASURES,
    ledger_positions,
    rollup_minute,
    rollup_units,
    series,
    series_sets,
)
from apishield.workers.consume import Consumer
from apishield.workers.ledger import LedgerWorker
from apishield.workers.publish import Publisher
from tests.support.clock import ManualClock
from tests.support.database import plain_url
from tests.support.processes import Reaper, ServerProcess

Sums = dict[tuple[object, ...], tuple[int, ...]]


class Node:
    """A node's spool, and what publishes it."""

    def __init__(self, directory: Path, settings: Settings, database: Database, clock: Clock, spool: int) -> None:
        self.spool, self.root = spool, directory / "spool"
        self._settings, self._database, self._clock = settings, database, clock
        self._writer = SpoolWriter(self.root, spool, clock)
        self.start()

    def write(self, events: Iterable[Event], turn: int = 20) -> None:
        """Writes events as turns of so many each."""
        for number, event in enumerate(events, 1):
            self._writer.append(event)
            if number % turn == 0:
                self._writer.flush()
        self._writer.flush()

    async def publish(self) -> None:
        """Publishes all that there is, however long the brokers are away."""
        async with asyncio.timeout(90):
            while True:
                with contextlib.suppress(Exception):
                    await self.worker.drain.catch_up()
                    return

    def crash(self, *, forget_published: bool = False) -> None:
        """Ends the publisher, and starts another; it may have lost how far the first one came."""
        self.close()
        if forget_published:
            (self.root / f"{self.spool:08x}" / "published").unlink()
        self.start()

    def close(self) -> None:
        self.worker.drain.close()
        self.publisher.close()

    def start(self) -> None:
        """Starts a publisher, after the one before was closed."""
        self.publisher = Publisher(self.root, self._settings, self._database, self._clock)
        self.worker = LedgerWorker(self.root, self.publisher, self._clock, owner="node", max_bytes=1 << 30)


class WorkerProcess(ServerProcess):
    """``apishield worker``, as an operator starts it."""

    def __init__(self, reaper: Reaper, directory: Path, settings: Settings, database: Database) -> None:
        directory.mkdir()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "DATABASE_URL": plain_url(database),
            "KAFKA_BOOTSTRAP_SERVERS": ",".join(settings.kafka_bootstrap_servers),
            "APISHIELD_KAFKA_TOPIC": settings.kafka_topic,
            "APISHIELD_DATA_DIR": str(directory / "data"),
            "APISHIELD_SECRET": "1:" + "c2VjcmV0" * 8,
        }
        command = [sys.executable, "-m", "apishield.cli", "worker"]
        super().__init__(
            reaper, command, lambda: "worker.started" in self.log, directory=directory, environment=environment
        )


@asynccontextmanager
async def consuming(
    settings: Settings, database: Database, clock: Clock, owner: str = "worker"
) -> AsyncIterator[tuple[Consumer, LedgerService]]:
    """A worker that runs as long as the block."""
    ledger = LedgerService(database, clock)
    consumer = Consumer(settings, database, ledger, clock, owner=owner)
    stopping = asyncio.Event()
    task = asyncio.create_task(consumer.run(stopping))
    try:
        yield consumer, ledger
    finally:
        stopping.set()
        await task


def traffic(spool: int, count: int, at_us: int, seed: int = 1) -> list[Event]:
    """Decisions of several tenants and keys, with results (some told twice, some before their decision) and settlements."""
    dice = random.Random(seed)
    events: list[Event] = []
    for step in range(count):
        number = step * 97  # so that they fill several blocks, and with them all partitions
        tenant = f"ten_{dice.randrange(3)}"
        held = step % 7 == 0
        code = "rate_limited" if step % 5 == 4 else "ok"
        key = f"key_{dice.randrange(9)}"
        events.append(
            DecisionEvent(
                number, at_us, tenant, code, HELD if held else 0, key if step % 3 or code != "ok" else None,
                method="GET", path=f"/orders/{number}", address=f"192.0.2.{dice.randrange(99)}", country="FR",
                units={"requests": 1, "tokens": 50} if held else 1, user_agent="curl/8.5.0",
            )
        )  # fmt: skip
        if code == "ok":
            result = ResultEvent(
                spool, number, at_us // 1000, tenant, at_us, dice.choice([200, 404, 500]), 1000 + number
            )
            events.insert(len(events) - step % 2, result)
            if step % 4 == 0:
                events.append(result)
            if held:
                events.append(SettlementEvent(spool, number, at_us // 1000, tenant, at_us, {"tokens": 80}))
    return events


async def sums(database: Database) -> Sums:
    """All that was counted, by what it was counted for: rollups of minutes, and units."""
    who = (series_sets.c.tenant_id, series_sets.c.environment, series_sets.c.dims, series.c.code, series.c.key_id,
           series.c.endpoint, series.c.method, series.c.country)  # fmt: skip
    found: Sums = {}
    async with database.read() as work:
        for table, extra, measures in (
            (rollup_minute, (rollup_minute.c.bucket,), [rollup_minute.c[name] for name in MEASURES]),
            (rollup_units, (rollup_units.c.step, rollup_units.c.bucket, rollup_units.c.unit), [rollup_units.c.cost]),
        ):
            statement = select(*who, *extra, *measures).join_from(
                table, series, (series.c.id == table.c.series_id) & (series.c.set_id == table.c.set_id)
            ).join(series_sets, series_sets.c.id == series.c.set_id)  # fmt: skip
            for row in await work.connection.execute(statement):
                values = tuple(row)
                found[values[: len(values) - len(measures)]] = values[len(values) - len(measures) :]
    return found


async def owners(database: Database) -> set[str]:
    """Who holds the streams of Kafka."""
    table = ledger_positions.c
    async with database.read() as work:
        rows = await work.connection.execute(select(table.owner).where(table.stream.startswith("kafka:")))
        return {owner for (owner,) in rows}


async def requests_in(database: Database) -> tuple[int, int]:
    """How many decisions were counted, and how many results."""
    requests = results = 0
    for who, measured in (await sums(database)).items():
        if who[2] == "tenant" and len(measured) > 1:
            requests += measured[0]
            results += measured[MEASURES.index("results")]
    return requests, results


async def until(condition: Callable[[], object], what: str, timeout_seconds: float = 60) -> None:
    """Polls until ``condition`` holds; for brokers and databases, whose clock a test can't own."""
    async with asyncio.timeout(timeout_seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def until_counted(
    database: Database, wanted: tuple[int, int], clock: ManualClock | None = None, timeout_seconds: float = 60
) -> None:
    """Polls until so many decisions and results are in the ledger; says how many were.

    With ``clock`` time goes by meanwhile, so that results that came before their decision are tried again.
    """
    found = (-1, -1)
    try:
        async with asyncio.timeout(timeout_seconds):
            while found != wanted:
                await asyncio.sleep(0.1)
                if clock is not None:
                    clock.advance(1)
                with contextlib.suppress(Exception):  # while the test has the database away
                    found = await requests_in(database)
    except TimeoutError:
        raise AssertionError(f"{found} decisions and results were counted, not {wanted}") from None
