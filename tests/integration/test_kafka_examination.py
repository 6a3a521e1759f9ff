"""`apishield doctor` tries Kafka, says what is wrong with which value, and makes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from apishield.cli.examination_kafka import KafkaFinding, look_at_kafka
from apishield.clock import system_clock
from apishield.settings import Settings
from apishield.stores.kafka.topics import agree, dead_topic
from apishield.stores.sql.database import Database
from tests.support.kafka import KafkaServer, kafka, kafka_server, kafka_settings
from tests.support.processes import free_port

__all__ = ["kafka", "kafka_server", "kafka_settings"]

pytestmark = pytest.mark.timeout(240)


async def look(settings: Settings) -> dict[str, KafkaFinding]:
    return {finding.part: finding async for finding in look_at_kafka(settings)}


async def test_without_kafka_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert await look(Settings(data_dir=tmp_path)) == {}


async def test_brokers_that_do_not_answer_are_named_with_what_to_do(tmp_path: Path) -> None:
    servers = f"127.0.0.1:{free_port()}"
    found = await look(Settings(data_dir=tmp_path, kafka_bootstrap_servers=(servers,)))
    assert list(found) == ["kafka"]
    assert found["kafka"].status == "fail"
    assert f"KAFKA_BOOTSTRAP_SERVERS is '{servers}'" in found["kafka"].detail
    assert "refused" in found["kafka"].detail
    assert "mend KAFKA_BOOTSTRAP_SERVERS" in (found["kafka"].fix or "")


async def test_before_the_first_start_brokers_are_tried_and_no_topic_is_made(
    kafka: KafkaServer, kafka_settings: Settings
) -> None:
    found = await look(kafka_settings)
    assert {part: finding.status for part, finding in found.items()} == {"kafka": "ok", "kafka topic": "ok"}
    assert "the first start makes it" in found["kafka topic"].detail
    assert not {kafka_settings.kafka_topic, dead_topic(kafka_settings.kafka_topic)} & topics(kafka)


async def test_a_topic_is_held_against_what_the_database_remembers(
    kafka: KafkaServer, kafka_settings: Settings, postgres_url: str
) -> None:
    settings = kafka_settings.model_copy(update={"database_url": postgres_url})
    name = settings.kafka_topic
    database = Database(postgres_url, system_clock)
    await database.migrate()
    await agree(database, settings)
    await database.close()
    assert {finding.status for finding in (await look(settings)).values()} == {"ok"}
    more = (await look(settings.model_copy(update={"kafka_partitions": 9})))["kafka topic"]
    assert (more.status, "APISHIELD_KAFKA_PARTITIONS is 9" in more.detail) == ("warn", True)
    assert "Set it to 4" in (more.fix or "")
    await change_topics(kafka, remove=name)
    gone = (await look(settings))["kafka topic"]
    assert (gone.status, f"'{name}' is missing" in gone.detail) == ("fail", True)
    assert "APISHIELD_KAFKA_TOPIC" in (gone.fix or "")


async def test_a_topic_with_too_few_partitions_is_told_with_the_command_that_adds_some(
    kafka: KafkaServer, kafka_settings: Settings
) -> None:
    await change_topics(kafka, make=NewTopic(kafka_settings.kafka_topic, 2, 1))
    found = (await look(kafka_settings))["kafka topic"]
    assert (found.status, "has 2 partitions and 4 are in use" in found.detail) == ("fail", True)
    assert "--alter" in (found.fix or "")


async def change_topics(kafka: KafkaServer, *, remove: str | None = None, make: NewTopic | None = None) -> None:
    """Returns once the broker shows it, which may be a moment after its controller has answered."""
    admin = kafka.admin()
    futures = admin.create_topics([make]) if make is not None else admin.delete_topics([str(remove)])
    for future in futures.values():
        future.result(30)
    name = remove if make is None else make.topic
    async with asyncio.timeout(30):
        while (name in topics(kafka)) is (make is None):
            await asyncio.sleep(0.05)


def topics(kafka: KafkaServer) -> set[str]:
    return set(kafka.admin().list_topics(timeout=10).topics)
