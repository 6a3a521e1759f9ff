"""From spools through a real Kafka into the ledger: each event once, whatever is sent again."""

from __future__ import annotations

from pathlib import Path

import pytest

from apishield.core.events import DecisionEvent
from apishield.services.ledger import LedgerService
from apishield.settings import Settings
from apishield.stores.sql.database import Database
from apishield.workers.ledger import LedgerWorker
from tests.support.clock import ManualClock
from tests.support.kafka import kafka, kafka_server, kafka_settings
from tests.support.kafka_ledger import FIRST, counted, database, node
from tests.support.pipeline import Node, consuming, requests_in, sums, traffic, until, until_counted

__all__ = ["database", "kafka", "kafka_server", "kafka_settings", "node"]

pytestmark = pytest.mark.timeout(240)  # a broker that was killed takes its time, and longer on shared cores


async def test_what_comes_through_kafka_is_what_comes_without(
    tmp_path: Path, node: Node, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    """Two workers share the partitions; some results come before their decision; all rows are those of a direct drain."""
    events = traffic(FIRST, 1500, clock())
    direct = Database(f"sqlite:///{tmp_path}/direct.db", clock)
    await direct.migrate()
    other = Node(tmp_path / "direct", kafka_settings, direct, clock, FIRST)
    other.write(events)
    drain = LedgerWorker(other.root, LedgerService(direct, clock), clock, owner="direct", max_bytes=1 << 30)
    await drain.drain.catch_up()
    clock.advance(60)  # what waited for its decision is tried again
    await drain.drain.catch_up()
    assert await requests_in(direct) == counted(events)

    node.write(events)
    async with (
        consuming(kafka_settings, database, clock, "a") as (a, _),
        consuming(kafka_settings, database, clock, "b") as (b, _),
    ):
        await until(lambda: a.stats.partitions == b.stats.partitions == 2, "both to have half of the partitions")
        await node.publish()
        await until(lambda: a.stats.messages and b.stats.messages, "both to take something")
        await until_counted(database, counted(events), clock)
    assert await sums(database) == await sums(direct)
    drain.drain.close()
    other.close()
    await direct.close()


async def test_what_a_publisher_sends_again_is_counted_once(
    node: Node, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    events = [event for event in traffic(FIRST, 600, clock()) if isinstance(event, DecisionEvent)]
    node.write(events[:300])
    await node.publish()
    node.crash(forget_published=True)
    node.write(events[300:], turn=7)
    await node.publish()
    assert node.publisher.stats.events == 600
    async with consuming(kafka_settings, database, clock) as (_, ledger):
        await until_counted(database, (600, 0))
        await until(lambda: ledger.stats.duplicates > 0, "what came again")
    before = await sums(database)
    node.crash(forget_published=True)
    await node.publish()
    async with consuming(kafka_settings, database, clock) as (consumer, ledger):
        await until(lambda: consumer.stats.messages > 0 and not any(consumer.stats.lag.values()), "it to be read")
        assert ledger.stats.events == 0
    assert await sums(database) == before


async def test_kafka_may_be_turned_on_and_off_and_on_again(
    node: Node, kafka_settings: Settings, database: Database, clock: ManualClock
) -> None:
    events = [event for event in traffic(FIRST, 500, clock()) if isinstance(event, DecisionEvent)]

    async def take_without_kafka() -> None:
        node.close()
        worker = LedgerWorker(node.root, LedgerService(database, clock), clock, owner="direct", max_bytes=1 << 30)
        await worker.drain.catch_up()
        worker.drain.close()

    node.write(events[:100])
    await take_without_kafka()
    node.start()
    node.write(events[100:200])
    await node.publish()
    node.write(events[200:300])
    await take_without_kafka()
    node.write(events[300:400])
    await take_without_kafka()
    node.start()
    node.write(events[400:])
    await node.publish()
    async with consuming(kafka_settings, database, clock) as (_, ledger):
        await until_counted(database, (500, 0))
        assert ledger.stats.events == 200
