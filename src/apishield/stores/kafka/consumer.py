"""Takes part in the workers' group, and reads the partitions it is given, from where the ledger stands.

The group only says whose turn it is. Offsets lie in the database; those that are committed to Kafka are for people who look
at the lag with Kafka's tools. A partition is read once its position is known, which is not before it was claimed.
"""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from apishield.settings import Settings
from apishield.stores.kafka.connection import Watch, client_options, log
from apishield.stores.kafka.messages import LARGEST_MESSAGE_BYTES
from apishield.stores.kafka.topics import group_of

_OPTIONS = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # never a silent jump
    # Eager: after a rebalance all positions are read again from the database, which is one way for all that can happen.
    "partition.assignment.strategy": "range",
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 2000,
    "max.poll.interval.ms": 120_000,
    "fetch.wait.max.ms": 100,
    "fetch.message.max.bytes": LARGEST_MESSAGE_BYTES + 64 * 1024,
    "queued.max.messages.kbytes": 16 * 1024,
    "enable.partition.eof": False,
}
_TOGETHER = 32  # messages; the client can't be told how many bytes
_ASKED_SECONDS = 1.0
_TRANSIENT = frozenset({KafkaError._PARTITION_EOF, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})


class GroupReader:
    """A member of the group. For one thread at a time; its methods block.

    ``wanted`` are the partitions that the group has given to this member; ``generation`` grows whenever they were dealt anew.
    ``read_from`` says from where they are read; until then nothing is. ``gone`` are those that have nothing at that offset.
    """

    def __init__(self, settings: Settings) -> None:
        self.topic = settings.kafka_topic
        self.watch = Watch("worker")
        self.wanted: frozenset[int] = frozenset()
        self.generation = 0
        self.gone: set[int] = set()
        self._reading: frozenset[int] = frozenset()
        self._client = Consumer(client_options(settings, self.watch) | _OPTIONS | {"group.id": group_of(self.topic)})
        self._client.subscribe([self.topic], on_assign=self._note_given, on_revoke=self._note_taken)

    def read_from(self, positions: Mapping[int, int]) -> None:
        """Reads these partitions from these offsets on, and no others. What was fetched before is dropped."""
        self.gone.clear()
        self._reading = frozenset(positions)
        self._client.assign([TopicPartition(self.topic, number, offset) for number, offset in positions.items()])

    def poll(self, most_bytes: int, seconds: float) -> list[Message]:
        """The next messages, within ``seconds``: somewhat more than ``most_bytes`` at most.

        Must be called all the time, or the group deals without this member.
        """
        found: list[Message] = []
        while True:
            messages = self._client.consume(_TOGETHER, seconds)
            found += filter(self._is_good, messages)
            if len(messages) < _TOGETHER or sum(map(len, found)) >= most_bytes:
                break
            seconds = 0  # what is there already
        if found:
            self.watch.note_answer()
        return found

    def _is_good(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            self.gone.add(_partition(message))
        elif error.code() not in _TRANSIENT:
            log.warning("kafka.not_read", error=error.str())
        return False

    def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that there is, and the one behind the last; asks the brokers. Raises ``KafkaException``."""
        return self._client.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=5)

    def waiting(self, positions: Mapping[int, int]) -> dict[int, int]:
        """How many messages wait in each partition that the group has given to this member.

        They are those behind ``positions``, and where that has none, behind what was last told to Kafka. Partitions of which
        the brokers say nothing within a second are absent.
        """
        found: dict[int, int] = {}
        try:
            for partition in sorted(self.wanted):
                first, behind = self._extent(partition)
                position = positions.get(partition)
                if position is None:
                    position = self._told(partition)
                found[partition] = max(0, behind - max(first, position))
        except KafkaException as error:
            log.debug("kafka.lag_not_known", error=str(error))
        return found

    def _extent(self, partition: int) -> tuple[int, int]:
        """As ``bounds``; of what is being read, as of the last fetch."""
        place = TopicPartition(self.topic, partition)
        if partition in self._reading:
            first, behind = self._client.get_watermark_offsets(place, cached=True)
            if behind >= 0:
                return first, behind
        return self._client.get_watermark_offsets(place, timeout=_ASKED_SECONDS)

    def _told(self, partition: int) -> int:
        """The offset that was last told for a partition, by whichever member; below 0 where none was."""
        (found,) = self._client.committed([TopicPartition(self.topic, partition)], timeout=_ASKED_SECONDS)
        return found.offset

    def tell(self, positions: Mapping[int, int]) -> None:
        """Tells Kafka how far the ledger is, for its tools. Nothing depends on it."""
        offsets = [TopicPartition(self.topic, number, offset) for number, offset in positions.items()]
        try:
            self._client.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            log.debug("kafka.lag_not_told", error=str(error))

    def close(self) -> None:
        """Leaves the group, so that others take over at once."""
        self._client.close()

    def _note_given(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        self.wanted = frozenset(given.partition for given in partitions)
        self.generation += 1
        client.assign([])  # nothing is read before it is known from where

    def _note_taken(self, client: Consumer, _: list[TopicPartition]) -> None:
        self.wanted = frozenset()
        self.generation += 1
        client.unassign()


def _partition(message: Message) -> int:
    number = message.partition()
    assert number is not None
    return number
