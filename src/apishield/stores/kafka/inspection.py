"""What the brokers and topics are like, for ``apishield doctor``: looked at, never made or changed."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec, TopicDescription

from apishield.errors import ConfigurationError
from apishield.settings import Settings
from apishield.stores.kafka.connection import Watch, client_options
from apishield.stores.kafka.topics import Agreement, check_size, compare, dead_topic

PATIENCE_SECONDS: Final = 5.0
_TELLING = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE)


class KafkaUnreachable(Exception):  # noqa: N818  reads as what is wrong
    """No broker answered; the message is what the client heard that says most."""


class TopicsSeen(msgspec.Struct, frozen=True):
    """How many brokers there are; how many partitions the topic of events has, ``None`` where it is missing.

    ``wrong`` says why nothing would start with this topic, ``None`` where it would.
    """

    brokers: int
    partitions: int | None
    has_dead_letters: bool
    wrong: str | None = None


def inspect(settings: Settings, agreement: Agreement | None) -> TopicsSeen:
    """Looks at what ``settings`` name; ``agreement`` is what the database remembers of the topic.

    Raises ``KafkaUnreachable``. Blocks for some seconds where the brokers are silent.
    """
    heard: list[KafkaError] = []
    admin = AdminClient(client_options(settings, Watch("doctor")) | {"error_cb": heard.append})
    try:
        listed = admin.list_topics(timeout=PATIENCE_SECONDS)
        name = settings.kafka_topic
        has_dead_letters = dead_topic(name) in listed.topics
        if name not in listed.topics:
            gone = None if agreement is None else _gone(name)
            return TopicsSeen(len(listed.brokers), None, has_dead_letters, gone)
        described: dict[str, Future[TopicDescription]] = admin.describe_topics(
            TopicCollection([name]), request_timeout=PATIENCE_SECONDS
        )
        found = described[name].result()
        return TopicsSeen(
            len(listed.brokers), len(found.partitions), has_dead_letters, _fault(admin, settings, found, agreement)
        )
    except KafkaException as error:
        admin.poll(0)  # calls ``error_cb``
        raise KafkaUnreachable(_most_telling(heard, error.args[0])) from None


def ends(settings: Settings, partitions: int) -> dict[int, int]:
    """The offset behind the last message of each partition of the topic of events.

    Raises ``KafkaUnreachable``. Blocks for some seconds where the brokers are silent.
    """
    admin = AdminClient(client_options(settings, Watch("reconcile")))
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(settings.kafka_topic, number): latest for number in range(partitions)}
    try:
        answers = admin.list_offsets(asked, request_timeout=PATIENCE_SECONDS)
        return {place.partition: answer.result().offset for place, answer in answers.items()}
    except KafkaException as error:
        raise KafkaUnreachable(str(error.args[0])) from None


def _gone(name: str) -> str:
    return (
        f"The topic '{name}' is missing, and the ledger stands at offsets of it: it was deleted, or "
        "KAFKA_BOOTSTRAP_SERVERS names another cluster. Set it back, or give APISHIELD_KAFKA_TOPIC another name."
    )


def _fault(admin: AdminClient, settings: Settings, found: TopicDescription, agreement: Agreement | None) -> str | None:
    """Why a start would refuse the topic."""
    name = settings.kafka_topic
    try:
        check_size(admin, name)
        compare(name, found, agreement or Agreement(str(found.topic_id), settings.kafka_partitions))
    except ConfigurationError as error:
        return str(error)
    return None


def _most_telling(heard: list[KafkaError], last: KafkaError) -> str:
    """A client that is turned away only says in the end that time is up; why, it said before."""
    told = [error for error in heard if error.code() in _TELLING] or heard or [last]
    text = told[0].str()
    return text if isinstance(text, str) else str(text)
