"""The topics: made where they are missing, compared with what the database remembers of them.

How many partitions are in use is fixed at the first start, in the database: an event must always go to the same one. A topic
may have more than that, which stay empty; with fewer nothing starts. A topic that was deleted and made again, or that of
another cluster, has other offsets than those the ledger stands at, so it is refused, too.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType, TopicDescription

from apishield.errors import ConfigurationError
from apishield.settings import Settings
from apishield.stores.kafka.connection import Watch, client_options, log
from apishield.stores.kafka.messages import LARGEST_MESSAGE_BYTES
from apishield.stores.sql.database import Database

REQUEST_SECONDS = 10.0
_REPLICAS = 3
_DAY_MS = 86_400_000
_EVENTS_OPTIONS = {"retention.ms": str(7 * _DAY_MS)}
_DEAD_OPTIONS = {"retention.ms": str(30 * _DAY_MS)}
_ALL_OPTIONS = {
    "cleanup.policy": "delete",
    "max.message.bytes": str(LARGEST_MESSAGE_BYTES + 64 * 1024),
    "compression.type": "producer",
    "message.timestamp.type": "CreateTime",
}
_NOT_ALLOWED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})


def dead_topic(topic: str) -> str:
    """The topic of messages that could not be read."""
    return f"{topic}.dead"


def group_of(topic: str) -> str:
    """The consumer group of the workers."""
    return f"{topic}.ledger"


def stream_of(topic: str, partition: int) -> str:
    """The ledger's name of one partition."""
    return f"kafka:{topic}:{partition}"


class Agreement(msgspec.Struct, frozen=True):
    """What is fixed at the first start with a topic: which topic it is (its id in its cluster), and the partitions in use."""

    topic_id: str
    partitions: int


async def agree(database: Database, settings: Settings) -> Agreement:
    """Makes the topics where needed; returns what all nodes and workers go by, from the first start on.

    Raises ``ConfigurationError`` where the topic is not what it was, ``KafkaException`` where the brokers can't be reached,
    ``ProblemError`` where the database can't.
    """
    name = settings.kafka_topic
    found = await asyncio.to_thread(_prepare, settings, name)
    wanted = Agreement(str(found.topic_id), settings.kafka_partitions)
    async with database.transaction() as tx:
        first = await tx.meta.put_first(f"kafka:{name}", msgspec.json.encode(wanted).decode())
    agreed = msgspec.json.decode(first, type=Agreement)
    compare(name, found, agreed)
    if agreed.partitions != settings.kafka_partitions:
        log.warning("kafka.partitions_are_fixed", topic=name, in_use=agreed.partitions, set=settings.kafka_partitions)
    return agreed


def compare(name: str, found: TopicDescription, agreed: Agreement) -> None:
    """Refuses, with ``ConfigurationError``, a topic that is not the one that was agreed on, or has too few partitions."""
    if str(found.topic_id) != agreed.topic_id:
        raise ConfigurationError(
            f"The topic '{name}' is not the one whose offsets the ledger knows: it was deleted and made again, or "
            "KAFKA_BOOTSTRAP_SERVERS names another cluster. Set it back, or give APISHIELD_KAFKA_TOPIC another name; "
            "the ledger begins with that topic at its start."
        )
    if len(found.partitions) < agreed.partitions:
        raise ConfigurationError(
            f"The topic '{name}' has {len(found.partitions)} partitions and {agreed.partitions} are in use. Add some: "
            f"kafka-topics.sh --bootstrap-server … --alter --topic {name} --partitions {agreed.partitions}"
        )


def _prepare(settings: Settings, name: str) -> TopicDescription:
    admin = AdminClient(client_options(settings, Watch("admin")))
    missing = {name, dead_topic(name)} - set(admin.list_topics(timeout=REQUEST_SECONDS).topics)
    if missing:
        _make(admin, settings, name, missing)
    check_size(admin, name)
    described: dict[str, Future[TopicDescription]] = admin.describe_topics(
        TopicCollection([name]), request_timeout=REQUEST_SECONDS
    )
    return described[name].result()


def _make(admin: AdminClient, settings: Settings, name: str, missing: set[str]) -> None:
    replicas = min(_REPLICAS, len(admin.list_topics(timeout=REQUEST_SECONDS).brokers))
    shared = _ALL_OPTIONS | {"min.insync.replicas": str(max(1, replicas - 1))}
    wanted = {
        name: NewTopic(name, settings.kafka_partitions, replicas, config=shared | _EVENTS_OPTIONS),
        dead_topic(name): NewTopic(dead_topic(name), 1, replicas, config=shared | _DEAD_OPTIONS),
    }
    made = admin.create_topics([wanted[topic] for topic in sorted(missing)], operation_timeout=REQUEST_SECONDS)
    for topic, future in made.items():
        try:
            future.result()
            log.info("kafka.topic_made", topic=topic, partitions=wanted[topic].num_partitions, replicas=replicas)
        except KafkaException as error:
            _explain(topic, wanted[topic], error)


def _explain(topic: str, wanted: NewTopic, error: KafkaException) -> None:
    code = error.args[0].code()
    if code in _NOT_ALLOWED:
        raise ConfigurationError(
            f"The topic '{topic}' is missing, and this user may not make it ({error.args[0].str()}). Make it: "
            f"kafka-topics.sh --bootstrap-server … --create --topic {topic} --partitions {wanted.num_partitions}"
        ) from None
    if code != KafkaError.TOPIC_ALREADY_EXISTS:  # another node was faster
        raise error


def check_size(admin: AdminClient, name: str) -> None:
    """Refuses a topic that would refuse our messages, where this user may know."""
    resource = ConfigResource(ResourceType.TOPIC, name)
    try:
        options: dict[str, Any] = admin.describe_configs([resource], request_timeout=REQUEST_SECONDS)[resource].result()
    except KafkaException:
        return
    allowed = int(options["max.message.bytes"].value)
    if allowed < LARGEST_MESSAGE_BYTES:
        raise ConfigurationError(
            f"The topic '{name}' takes messages of {allowed} bytes (max.message.bytes); events need "
            f"{LARGEST_MESSAGE_BYTES}. Raise it with kafka-configs.sh."
        )
