"""Where messages go that can't be read, so that they keep no other waiting: a topic of their own, with the reason."""

from __future__ import annotations

from confluent_kafka import Message

from apishield.settings import Settings
from apishield.stores.kafka.messages import LARGEST_MESSAGE_BYTES
from apishield.stores.kafka.producer import EventProducer, Headers
from apishield.stores.kafka.topics import dead_topic

_PATIENCE_SECONDS = 10.0


class DeadLetterNotTakenError(Exception):
    """The brokers have not taken a dead letter. Its message must not be passed over then."""


class DeadLetters:
    """Connects when the first one comes. For one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: EventProducer | None = None

    def send(self, message: Message, reason: str) -> None:
        """Sends a message on, as it is (an oversize one cut), with the reason and where it lay in its headers.

        Raises ``DeadLetterNotTakenError``, and ``DeliveryFailedError``. After a crash the same one may come twice.
        """
        producer = self._producer or EventProducer(self._settings, "dead-letters")
        self._producer = None  # until it has arrived: one that is busy is not used again
        value = message.value() or b""
        headers: Headers = [
            ("reason", reason.encode()),
            ("topic", str(message.topic()).encode()),
            ("partition", str(message.partition()).encode()),
            ("offset", str(message.offset()).encode()),
            ("bytes", str(len(value)).encode()),
        ]
        producer.send(dead_topic(self._settings.kafka_topic), {0: [value[:LARGEST_MESSAGE_BYTES]]}, headers)
        if not producer.wait(_PATIENCE_SECONDS):
            producer.close()
            raise DeadLetterNotTakenError
        self._producer = producer

    def close(self) -> None:
        """Lets go of the brokers."""
        if self._producer is not None:
            self._producer.close()
