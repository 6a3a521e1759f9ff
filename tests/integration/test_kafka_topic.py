"""What is known of Kafka's topic: how far its partitions are taken, and whether it is the one that it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from apishield.core.events import DecisionEvent
from apishield.errors import ConfigurationError
from apishield.services.backlog import Pipeline, backlog
from apishield.services.ledger import LedgerService
from apishield.settings import Settings
from apishield.stores.kafka.topics import agree
from apishield.stores.sql.database import Database
from apishield.stores.sql.failures import unavailable
from tests.support.clock import ManualClock
from tests.support.kafka import KafkaServer, kafka, kafka_server, kafka_settings
from tests.support.kafka_ledger import FIRST, agree_patiently, database, message_of, publish, remake, remove
from tests.support.pipeline import consuming, traffic, until, until_counted

__all__ = ["database", "kafka", "kafka_server", "kafka_settings"]

pytestmark = pytest.mark.timeout(240)  # a broker that was killed takes its time, and longer on shared cores


async def test_the_lag_of_a_partition_is_known_also_while_it_can_not_be_taken_or_not_even_claimed(
    tmp_path: Path,
    kafka: KafkaServer,
    kafka_settings: Settings,
    database: Database,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the worker's metric, by what ``apishield reconcile`` says, and by what tells orphaned charges from those that wait."""
    pipeline = Pipeline(database, kafka_settings, tmp_path)

    async def be_away(*_: object) -> None:
        raise unavailable()

    await agree(database, kafka_settings)
    events = [event for event in traffic(FIRST, 60, clock()) if isinstance(event, DecisionEvent)]
    messages = [message_of(event, spool=1000 + number) for number, event in enumerate(events)]
    publish(kafka, kafka_settings, *messages[:10])
    async with consuming(kafka_settings, database, clock) as (consumer, _):
        await until_counted(database, (10, 0))
        await until(lambda: consumer.stats.lag == {0: 0, 1: 0, 2: 0, 3: 0}, "no lag")
        assert (await backlog(database, kafka_settings, tmp_path)).messages == {0: 0, 1: 0, 2: 0, 3: 0}
        with monkeypatch.context() as patch:
            patch.setattr(LedgerService, "apply", be_away)
            publish(kafka, kafka_settings, *messages[10:30])
            await until(lambda: consumer.stats.lag == {0: 0, 1: 20, 2: 0, 3: 0}, "the lag of what can't be taken")
            await until(lambda: consumer.stats.failures >= 3, "it to be tried again")
            publish(kafka, kafka_settings, *messages[30:40])
            await until(lambda: consumer.stats.lag == {0: 0, 1: 30, 2: 0, 3: 0}, "the lag to grow")
            waits = await backlog(database, kafka_settings, tmp_path)
            assert (waits.messages, waits.is_empty) == ({0: 0, 1: 30, 2: 0, 3: 0}, False), "what the command tells"
            written = await pipeline.written()
            assert written is not None
            assert not await pipeline.has_arrived(written)
        await until(lambda: consumer.stats.lag == {0: 0, 1: 0, 2: 0, 3: 0}, "no lag again")
        assert await pipeline.has_arrived(written)
    with monkeypatch.context() as patch:
        patch.setattr(LedgerService, "claim", be_away)
        publish(kafka, kafka_settings, *messages[40:])
        async with consuming(kafka_settings, database, clock) as (consumer, _):
            await until(lambda: consumer.stats.lag.get(1) == 20, "the lag of what was never claimed here")
    async with consuming(kafka_settings, database, clock):
        await until_counted(database, (60, 0))


async def test_a_topic_that_is_not_what_it_was_is_refused_with_the_way_out(
    kafka: KafkaServer, kafka_settings: Settings, database: Database
) -> None:
    name = kafka_settings.kafka_topic
    assert (await agree(database, kafka_settings)).partitions == 4
    more = kafka_settings.model_copy(update={"kafka_partitions": 9})
    assert (await agree(database, more)).partitions == 4  # fixed at the first start
    remove(kafka, [name])
    remake(kafka, NewTopic(name, 4, 1))
    with pytest.raises(ConfigurationError, match="deleted and made again, or KAFKA_BOOTSTRAP_SERVERS"):
        await agree_patiently(database, kafka_settings)
    small = kafka_settings.model_copy(update={"kafka_topic": f"{name}.small"})
    remake(kafka, NewTopic(small.kafka_topic, 2, 1))
    with pytest.raises(ConfigurationError, match=r"has 2 partitions and 4 are in use.*--alter"):
        await agree_patiently(database, small)
