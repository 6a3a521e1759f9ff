"""Between Kafka and the ledger nothing is lost or counted twice, whoever is killed, away or replaced on the way."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from apishield.clock import system_clock
from apishield.core.events import DecisionEvent
from apishield.services.ledger import LedgerService
from apishield.settings import Settings
from apishield.stores.kafka.topics import agree, stream_of
from apishield.stores.sql.database import Database
from tests.support.clock import ManualClock
from tests.support.kafka import KafkaServer, kafka, kafka_server, kafka_settings
from tests.support.kafka_ledger import FIRST, counted, database, node
from tests.support.pipeline import Node, WorkerProcess, consuming, owners, traffic, until, until_counted
from tests.support.processes import Reaper
from tests.support.services import PostgresServer

__all__ = ["database", "kafka", "kafka_server", "kafka_settings", "node"]

pytestmark = pytest.mark.timeout(240)  # a broker that was killed takes its time, and longer on shared cores


async def test_nothing_is_lost_or_counted_twice_when_the_broker_is_killed(
    node: Node, kafka: KafkaServer, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    events = traffic(FIRST, 900, clock())
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        node.write(events[:500])
        await node.publish()
        await until(lambda: consumer.stats.messages > 0, "the first messages")
        node.write(events[500:])
        kafka.kill()
        with pytest.raises(Exception, match="holds up to"):
            await node.worker.step()
        assert node.publisher.stats.failures == 1
        kafka.start()
        await node.publish()
        await until_counted(database, counted(events), clock)
    assert node.publisher.stats.waiting_since_us == 0
    assert node.publisher.stats.events == len(events), "also those that arrived after the call that had sent them"


async def test_a_worker_that_is_killed_is_replaced_by_another_and_nothing_is_lost_or_counted_twice(
    tmp_path: Path, node: Node, kafka_settings: Settings, database: Database, reaper: Reaper
) -> None:
    events = [event for event in traffic(FIRST, 4000, system_clock()) if isinstance(event, DecisionEvent)]
    await agree(database, kafka_settings)
    workers = [
        await asyncio.to_thread(WorkerProcess, reaper, tmp_path / name, kafka_settings, database) for name in ("a", "b")
    ]
    try:
        async with asyncio.timeout(60):
            while len(await owners(database)) < 2:
                await asyncio.sleep(0.1)
        for first in range(0, len(events), 100):
            node.write(events[first : first + 100])
            await node.publish()
            if first == 2000:
                workers[0].kill()
        await until_counted(database, (len(events), 0))
        assert await owners(database) == {f"{socket.gethostname()}:{workers[1].pid}"}
    finally:
        for worker in workers:
            worker.kill()


async def test_the_worker_stays_in_the_group_and_goes_on_where_it_was_while_the_database_is_away(
    node: Node, kafka_settings: Settings, database: Database, clock: ManualClock, postgres_server: PostgresServer
) -> None:
    events = [event for event in traffic(FIRST, 400, clock()) if isinstance(event, DecisionEvent)]
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        node.write(events[:200])
        await node.publish()
        await until_counted(database, (200, 0))
        postgres_server.kill()
        node.write(events[200:])
        await node.publish()  # the publisher doesn't need the database
        await until(lambda: consumer.stats.failures >= 2, "the worker to notice")
        postgres_server.start()
        await until_counted(database, (400, 0))
        assert consumer.stats.failures < 50


async def test_a_stale_owner_is_fenced_and_claims_again_what_is_still_its_turn(
    node: Node, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    events = [event for event in traffic(FIRST, 400, clock()) if isinstance(event, DecisionEvent)]
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        node.write(events[:200])
        await node.publish()
        await until_counted(database, (200, 0))
        thief = LedgerService(database, clock)
        for partition in range(4):
            await thief.claim(stream_of(kafka_settings.kafka_topic, partition), "thief")
        node.write(events[200:])
        await node.publish()
        await until_counted(database, (400, 0))
        assert consumer.stats.fenced == 4
