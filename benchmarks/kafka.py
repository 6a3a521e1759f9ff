"""How many events a second one node publishes to Kafka, and one worker takes from there into PostgreSQL.

``python -m benchmarks.kafka [--events 500000] [--workers 1] [--turn 64]``: a throwaway Kafka and PostgreSQL of this machine.
The traffic is that of ``benchmarks.ledger``. Each figure is of one step alone, while nothing else runs but the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from sqlalchemy import text
from tests.support.kafka import KafkaServer, _home
from tests.support.pipeline import Node, WorkerProcess, consuming
from tests.support.processes import Reaper
from tests.support.services import PostgresServer, _find

from apishield.clock import system_clock
from apishield.core.events import DecisionEvent
from apishield.settings import Settings
from apishield.stores.kafka.topics import agree
from apishield.stores.sql.database import Database
from benchmarks.ledger import SPOOL, START_US, Traffic


def write(node: Node, events: int, turn: int) -> int:
    """Writes ``events`` events to the spool; how many of them are decisions."""
    decisions = 0
    for intake in Traffic().intakes(events):
        for part in intake.parts:
            for frame in part.frames:
                found = frame.events()
                decisions += sum(isinstance(event, DecisionEvent) for event in found)
                node.write(found, turn)
    return decisions


async def counted(database: Database) -> int:
    """How many decisions were counted."""
    statement = (
        "SELECT coalesce(sum(requests), 0) FROM rollup_day "
        "JOIN series_sets ON series_sets.id = set_id WHERE dims = 'tenant'"
    )
    async with database.read() as work:
        return int(await work.connection.scalar(text(statement)) or 0)


async def waiting(database: Database) -> int:
    """How many results wait for their decision."""
    async with database.read() as work:
        return int(await work.connection.scalar(text("SELECT count(*) FROM ledger_pending")) or 0)


async def run(kafka: KafkaServer, postgres: PostgresServer, reaper: Reaper, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory, started_us = Path(name), system_clock()
        settings = Settings(
            kafka_bootstrap_servers=(kafka.bootstrap_servers,),
            kafka_topic=f"benchmark.{uuid.uuid4().hex[:8]}",
            data_dir=directory / "data",
        )
        database = Database(postgres.url_of("postgres"), lambda: START_US + system_clock() - started_us)
        await database.migrate()
        await agree(database, settings)
        node = Node(directory, settings, database, system_clock, SPOOL)
        decisions = await asyncio.to_thread(write, node, arguments.events, arguments.turn)
        began, busy = time.perf_counter(), time.process_time()
        await node.publish()
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        stats = node.publisher.stats
        print(f"publisher: {stats.events / seconds:,.0f} events/s ({stats.events / busy:,.0f} a second of its processor "
              f"time), {stats.events / stats.messages:,.0f} events a message, "
              f"{stats.bytes / stats.events:.0f} bytes an event before compression")  # fmt: skip
        began, busy = time.perf_counter(), time.process_time()
        if arguments.workers == 1:
            async with consuming(settings, database, database.clock) as (consumer, ledger):
                while ledger.stats.events < stats.events:
                    await asyncio.sleep(0.01)
                seconds, busy = time.perf_counter() - began, time.process_time() - busy
                print(
                    f"worker: {stats.events / busy:,.0f} events a second of its processor time, "
                    f"{consumer.stats.intakes} transactions\n  {ledger.stats}"
                )
        else:
            workers = [WorkerProcess(reaper, directory / f"w{n}", settings, database) for n in range(arguments.workers)]
            began = time.perf_counter()
            while not await done(database, decisions):
                await asyncio.sleep(0.2)
            seconds = time.perf_counter() - began
            for worker in workers:
                worker.kill()
        print(f"Kafka to PostgreSQL, {arguments.workers} workers: {stats.events / seconds:,.0f} events/s "
              f"(joining the group included)")  # fmt: skip
        if not await done(database, decisions):
            sys.exit("not all was counted")
        node.close()
        await database.close()


async def done(database: Database, decisions: int) -> bool:
    """Whether all decisions are counted, and no result waits."""
    return await counted(database) == decisions and not await waiting(database)


def main(given: list[str] | None = None) -> None:
    """Starts what is needed, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--turn", type=int, default=64, help="events a turn of the node")
    arguments = parser.parse_args(given)
    binary = _find("initdb", package=None)
    if binary is None:
        sys.exit("PostgreSQL is not installed")
    reaper = Reaper()
    try:
        postgres = PostgresServer(reaper, binary.parent)
        asyncio.run(run(KafkaServer(reaper, _home()), postgres, reaper, arguments))
    except subprocess.CalledProcessError as error:
        sys.exit(f"Kafka could not be started: {error.stderr}")
    finally:
        reaper.close()


if __name__ == "__main__":
    main()
