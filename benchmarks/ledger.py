"""How many events a second one worker takes into the ledger, and what an event costs in time and in the database.

``python -m benchmarks.ledger [--events 1000000] [--database-url postgresql://…] [--rounds 1]``: with ``--rounds 10`` the same
number of events ten times over into the same tables, to see whether an event costs more the more there are.

The traffic: 50 tenants of very different size, 2,000 keys that call a few of 60 endpoints each, 10 % refusals, results for 80 %
of what was admitted, in intakes of as many events as a worker reads at once. CPU is this process' alone; with SQLite that is
the database, too; on a machine that has other work it tells more than the seconds do.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import text

from apishield.core.events import (
    CATALOGUED,
    DecisionEvent,
    Event,
    Frame,
    Intake,
    ResultEvent,
    SpoolPart,
    encode_events,
)
from apishield.services.ledger import LedgerService
from apishield.stores.spool.reader import READ_EVENTS
from apishield.stores.sql.database import Database
from apishield.telemetry import Metrics

TENANTS, KEYS, ENDPOINTS = 50, 2_000, 60
EVENTS_A_SECOND = 20_000
SPOOL = 0x1234ABCD
START_US = 1_795_000_000_000_000
FRAME = 64
COUNTRIES = ["DE", "US", "FR", "GB", "IN", "BR", "JP"]
REFUSALS = ["rate_limited", "rate_limited", "quota_exceeded", "key_unknown", "blocked"]


class Traffic:
    """Events as a busy node writes them, the same for the same seed."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        tenants = [f"ten_{n:026d}" for n in range(TENANTS)]
        weights = [1 / (n + 1) for n in range(TENANTS)]
        self._keys = [
            (tenant, f"key_{n:026d}", f"cus_{n // 3:026d}", self._random.sample(range(ENDPOINTS), 4))
            for n, tenant in enumerate(self._random.choices(tenants, weights, k=KEYS))
        ]
        self._key_weights = [1 / (n + 10) ** 0.7 for n in range(KEYS)]
        self._sequence = 0
        self._now_us = START_US
        self._end = 0

    def intakes(self, events: int) -> Iterator[Intake]:
        """Intakes of about ``READ_EVENTS`` events each."""
        made = 0
        while made < events:
            batch = self._events(min(READ_EVENTS, events - made))
            made += len(batch)
            start, frames = self._end, []
            for first in range(0, len(batch), FRAME):
                buffer = bytearray()
                encode_events(batch[first : first + FRAME], buffer, 0)
                self._end += len(buffer) + 16
                frames.append(Frame(self._end, bytes(buffer)))
            yield Intake(f"spool:{SPOOL:08x}", start, self._end, [SpoolPart(SPOOL, frames)])

    def _events(self, events: int) -> list[Event]:
        chance = self._random
        found: list[Event] = []
        keys = chance.choices(self._keys, self._key_weights, k=events)
        while len(found) < events:
            tenant, key, customer, endpoints = keys[len(found)]
            self._sequence += 1
            self._now_us += 1_000_000 * 100 // (EVENTS_A_SECOND * 58)
            refused = chance.random() < 0.1
            endpoint = chance.choice(endpoints)
            found.append(
                DecisionEvent(
                    self._sequence,
                    self._now_us,
                    tenant,
                    chance.choice(REFUSALS) if refused else "ok",
                    CATALOGUED,
                    key,
                    customer,
                    "GET" if endpoint % 3 else "POST",
                    f"/v1/things/{self._sequence}/{endpoint}",
                    f"/v1/things/{{id}}/{endpoint}",
                    f"203.0.113.{chance.randrange(256)}",
                    chance.choice(COUNTRIES[: 1 + endpoint % 3]),
                    1,
                    "python-httpx/0.28.1",
                )
            )
            if not refused and chance.random() < 0.8:
                latency_us = int(chance.lognormvariate(9.5, 0.8))
                found.append(
                    ResultEvent(
                        SPOOL,
                        self._sequence,
                        self._now_us // 1000,
                        tenant,
                        self._now_us + latency_us,
                        500 if chance.random() < 0.01 else 200,
                        latency_us,
                        1_024,
                    )
                )
        return found


async def run(database_url: str, events: int, rounds: int) -> None:
    """Takes the events, round by round, and prints what each cost."""
    traffic = Traffic()
    database = Database(database_url, lambda: traffic._now_us)
    await database.migrate()
    ledger = LedgerService(database, database.clock, observer=Metrics())
    claim = await ledger.claim(f"spool:{SPOOL:08x}", "benchmark")
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    print(
        f"{kind}: {rounds} x {events:,} events\n\n| events in the table | events/s | µs/event | CPU µs/event | bytes/event |"
    )
    print("|---:|---:|---:|---:|---:|")
    taken, slowest = 0, 0.0
    for _ in range(rounds):
        seconds = cpu = 0.0
        count = 0
        for intake in traffic.intakes(events):
            began, cpu_began = time.perf_counter(), time.process_time()
            applied = await ledger.apply(claim, intake)
            took = time.perf_counter() - began
            cpu += time.process_time() - cpu_began
            seconds, slowest = seconds + took, max(slowest, took)
            claim, count = applied.claim, count + applied.events
        taken += count
        size = await _bytes(database)
        per_event = f"{seconds / count * 1e6:.1f} | {cpu / count * 1e6:.1f} | {size / taken:.0f}"
        print(f"| {taken:,} | {count / seconds:,.0f} | {per_event} |", flush=True)
    print(f"\nslowest transaction with its preparation: {slowest * 1000:.0f} ms")
    for table, rows in (await _rows(database)).items():
        print(f"  {table}: {rows:,} rows")
    await database.close()


async def _bytes(database: Database) -> int:
    if database.is_sqlite:
        assert database.url.database is not None
        async with database.engine.connect() as connection:
            await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(database.url.database).stat().st_size
    async with database.read() as work:
        return int(await work.connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)


async def _rows(database: Database) -> dict[str, int]:
    tables = [
        "series",
        "rollup_minute",
        "rollup_hour",
        "rollup_day",
        "address_hour",
        "decision_chunks",
        "ledger_pending",
    ]
    async with database.read() as work:
        return {
            table: int(await work.connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0) for table in tables
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--database-url")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        url = arguments.database_url or f"sqlite:///{directory}/ledger.db"
        asyncio.run(run(url, arguments.events, arguments.rounds))


if __name__ == "__main__":
    main()
