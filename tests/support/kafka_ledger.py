"""A node that publishes to a real Kafka, a ledger in PostgreSQL, and what somebody else may do to their topics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import msgspec
import pytest_asyncio
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from apishield.core.events import DecisionEvent, Event, Frame, ResultEvent
from apishield.settings import Settings
from apishield.stores.kafka.messages import encode_messages
from apishield.stores.kafka.topics import agree, dead_topic
from apishield.stores.sql.database import Database
from tests.support.clock import ManualClock
from tests.support.kafka import KafkaServer
from tests.support.pipeline import Node

FIRST = 0x0A1B2C3D


@pytest_asyncio.fixture
async def database(postgres_url: str, clock: ManualClock) -> AsyncIterator[Database]:
    """An empty PostgreSQL with the newest schema."""
    database = Database(postgres_url, clock)
    await database.migrate()
    yield database
    await database.close()


@pytest_asyncio.fixture
async def node(tmp_path: Path, kafka_settings: Settings, database: Database, clock: ManualClock) -> AsyncIterator[Node]:
    node = Node(tmp_path, kafka_settings, database, clock, FIRST)
    yield node
    node.close()


def counted(events: Iterable[Event]) -> tuple[int, int]:
    """How many decisions there are, and how many of them have a result."""
    events = list(events)
    decisions = sum(isinstance(event, DecisionEvent) for event in events)
    return decisions, len({event.sequence for event in events if isinstance(event, ResultEvent)})


async def agree_patiently(database: Database, settings: Settings) -> None:
    """A broker may know for a moment less than its controller has answered."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(KafkaException):
                await agree(database, settings)
                return


def remove(kafka: KafkaServer, names: list[str]) -> None:
    admin = kafka.admin()
    for future in admin.delete_topics(names).values():
        future.result(30)


def remake(kafka: KafkaServer, topic: NewTopic) -> None:
    admin = kafka.admin()
    for future in admin.create_topics([topic]).values():
        future.result(30)


def message_of(event: Event, *, spool: int) -> bytes:
    """A message that holds one event, of a spool of its own."""
    (value,) = encode_messages(spool, [Frame(100, msgspec.msgpack.encode([event]))])
    return value


def publish(kafka: KafkaServer, settings: Settings, *values: bytes) -> None:
    """Publishes messages as somebody else would, one after the other, all to the same partition."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "message.max.bytes": 2_000_000})
    for value in values:
        producer.produce(settings.kafka_topic, value, partition=1)
    assert producer.flush(30) == 0


def dead_letters(kafka: KafkaServer, settings: Settings) -> list[tuple[bytes | None, dict[str, str]]]:
    """All dead letters, as people would read them."""
    client = KafkaConsumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": f"{settings.kafka_topic}.people",
            "fetch.message.max.bytes": 2_000_000,
        }
    )
    topic = dead_topic(settings.kafka_topic)
    try:
        first, behind = client.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        client.assign([TopicPartition(topic, 0, first)])
        found = client.consume(behind - first, 30)
    finally:
        client.close()
    return [(message.value(), {name: as_text(value) for name, value in _pairs(message)}) for message in found]


def _pairs(message: Message) -> list[tuple[str, str | bytes | None]]:
    headers = message.headers()
    assert isinstance(headers, list)
    return headers


def as_text(value: str | bytes | None) -> str:
    assert isinstance(value, bytes)
    return value.decode()
