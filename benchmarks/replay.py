"""How long a replay takes over a million recorded decisions, and what the loop that runs it notices of it.

``python -m benchmarks.replay [--events 1000000] [--database-url postgresql://…]``

The traffic: one tenant, an hour of it from two nodes, 2,000 keys, 50,000 addresses, 60 endpoints, 5 % refused by something
else, results for 80 % of the rest; a second of each node is a chunk. Meanwhile a timer ticks each millisecond: how late it
comes is how long a check would have waited. Processor time is the process's own, the ticks and the database's threads with it:
a busy machine changes it little, where it may double the time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from apishield.core.events import CATALOGUED, DecisionEvent, ResultEvent
from apishield.core.ids import new_id
from apishield.core.model import SECOND_US, FixedWindow, Limit, SlidingWindow, TokenBucket
from apishield.core.records import Actor, Match, Role, Tenant
from apishield.core.replay_report import ReplayJob
from apishield.services.replay import ReplayDraft, ReplayService
from apishield.services.snapshot import Snapshot
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.archive import DecisionArchive
from apishield.stores.sql.ledger.chunks import INSERT, ChunkRows
from apishield.stores.sql.ledger.statements import run_many
from benchmarks.table import print_table

START_US = 1_795_000_000 * SECOND_US
HOUR_S = 3600
TENANT = "ten_" + "0" * 26
SPOOLS = (0x0A0A0A0A, 0x0B0B0B0B)
MINUTE_US = 60 * SECOND_US

DRAFTS = {
    "100/minute a key": {"per": ("key",), "limit": SlidingWindow(100, MINUTE_US)},
    "10/second burst 20 an address": {"per": ("ip",), "limit": TokenBucket(10, SECOND_US, 20)},
    "1000/hour a key and endpoint": {"per": ("key", "endpoint"), "limit": FixedWindow(1000, 60 * MINUTE_US)},
    "600/minute an endpoint, one path": {
        "per": ("endpoint",),
        "limit": SlidingWindow(600, MINUTE_US),
        "match": Match(methods=("GET",), path="/v1/things-7*"),
    },
}


async def record(database: Database, events: int) -> None:
    """Writes the hour's decisions, as the ledger does."""
    chance = random.Random(1)
    keys = [f"key_{n:026d}" for n in range(2_000)]
    weights = [1 / (n + 10) ** 0.7 for n in range(2_000)]
    sequences = dict.fromkeys(SPOOLS, 0)
    each = events // (HOUR_S * len(SPOOLS))
    for second in range(HOUR_S):
        rows = []
        for spool in SPOOLS:
            chunks = ChunkRows()
            for key in chance.choices(keys, weights, k=each):
                sequences[spool] += 1
                at_us = START_US + second * SECOND_US + chance.randrange(SECOND_US)
                thing = chance.randrange(60)
                code = "key_revoked" if chance.random() < 0.05 else "ok"
                chunks.add_decision(
                    spool,
                    DecisionEvent(
                        sequences[spool], at_us, TENANT, code, CATALOGUED, key, None, "GET", f"/v1/things-{thing}/{second}",
                        f"/v1/things-{thing}/{{id}}", f"10.0.{chance.randrange(200)}.{chance.randrange(250)}", "DE", 1,
                        "python-httpx/0.28",
                    ),
                )  # fmt: skip
                if code == "ok" and chance.random() < 0.8:
                    chunks.add_result(
                        ResultEvent(spool, sequences[spool], at_us // 1000, TENANT, at_us + 20_000, 200, 18_000, 900),
                        at_us,
                    )
            rows += chunks.rows()
        async with database.transaction() as tx:
            await run_many(tx.connection, INSERT, rows)


async def late_ticks(lateness_ms: list[float]) -> None:
    """Ticks each millisecond, and notes how late it comes."""
    while True:
        due = time.perf_counter() + 0.001
        await asyncio.sleep(0.001)
        lateness_ms.append((time.perf_counter() - due) * 1000)


class Measured(NamedTuple):
    """One replay: how long it took, on the clock and of the processor, and how late ticks came meanwhile, in order."""

    job: ReplayJob
    seconds: float
    processor_seconds: float
    lateness_ms: list[float]


async def replayed(service: ReplayService, actor: Actor, draft: ReplayDraft) -> Measured:
    """Replays ``draft``."""
    lateness_ms: list[float] = []
    ticks = asyncio.create_task(late_ticks(lateness_ms))
    began, worked = time.perf_counter(), time.process_time()
    job = await service.begin(actor, draft, patience_seconds=None)
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - worked
    ticks.cancel()
    return Measured(job, seconds, processor_seconds, sorted(lateness_ms))


async def main(events: int, database_url: str | None) -> None:
    now_us = START_US + HOUR_S * SECOND_US
    with tempfile.TemporaryDirectory() as directory:
        database = Database(database_url or f"sqlite:///{Path(directory) / 'replay.db'}", lambda: now_us)
        await database.migrate()
        tenant = Tenant(id=TENANT, name="Bench", plan="starter", created_at_us=0, updated_at_us=0)
        async with database.transaction() as tx:
            await tx.tenants.insert(tenant)
        began = time.perf_counter()
        await record(database, events)
        print(f"recorded {events:,} decisions in {time.perf_counter() - began:.0f} s, on {await database.check()}")
        service = ReplayService(
            database,
            DecisionArchive(database),
            Snapshot(database.feed, lambda: now_us, {1: b""}),
            lambda: now_us,
            replay_days=7,
        )
        actor = Actor(id=new_id("tok", now_us, lambda size: b"0" * size), role=Role.OWNER, tenant_id=TENANT)
        rows = []
        for name, fields in DRAFTS.items():
            limit = Limit(id="", name="tried", algorithm=fields["limit"])  # type: ignore[arg-type]
            draft = ReplayDraft(from_us=START_US, to_us=now_us, **{**fields, "limit": limit})  # type: ignore[arg-type]
            job, seconds, processor_seconds, late = await replayed(service, actor, draft)
            assert job.report is not None, job.error
            rows.append(
                [
                    name,
                    f"{job.report.of:,}",
                    f"{job.report.would_refuse:,}",
                    f"{seconds:.1f} s",
                    f"{seconds / job.report.decisions * 1e6:.1f} µs",
                    f"{processor_seconds / job.report.decisions * 1e6:.1f} µs",
                    f"{late[len(late) // 2]:.1f} ms",
                    f"{late[int(len(late) * 0.99)]:.1f} ms",
                    f"{late[-1]:.1f} ms",
                ]
            )
        head = ["limit", "of", "would refuse", "time", "a decision", "processor", "tick late p50", "p99", "most"]
        print_table(f"replay of {events:,} decisions", head, rows)
        await database.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--database-url")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.events, arguments.database_url))
