"""Sends messages, and says when all of them have arrived: replicated as the topic demands, none twice, in order.

At most one message a partition is on its way at a time, and none is ever given up in favour of a later one. Otherwise the
later one could arrive alone; its frames would be taken, and those of the first be dropped as old when they came again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaError, Message, Producer

from apishield.settings import Settings
from apishield.stores.kafka.connection import Watch, client_options
from apishield.stores.kafka.messages import LARGEST_MESSAGE_BYTES

_OPTIONS = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "zstd",
    "linger.ms": 0,  # whole messages are made before they are sent
    "message.timeout.ms": 0,  # none is given up: it is sent again until the brokers are back
    "message.max.bytes": LARGEST_MESSAGE_BYTES + 64 * 1024,
    "retry.backoff.max.ms": 1000,
}
Headers = list[tuple[str, str | bytes | None]]


class DeliveryFailedError(Exception):
    """The brokers refuse a message, or the client can't go on. Some of a round may have arrived; send all of it again."""


class EventProducer:
    """Sends rounds of messages, at most one a partition in each. For one thread at a time.

    ``send`` begins; ``wait`` is called until it says that all has arrived. After ``DeliveryFailedError`` the client is a new
    one, and nothing is on its way.
    """

    def __init__(self, settings: Settings, name: str = "publisher") -> None:
        self.watch = Watch(name)
        self._settings = settings
        self._rounds: deque[list[tuple[str, int, bytes, Headers | None]]] = deque()
        self._on_the_way = 0
        self._fault: KafkaError | None = None
        self._client = self._connect()

    @property
    def busy(self) -> bool:
        """Whether something that was sent has not arrived yet."""
        return self._on_the_way > 0 or bool(self._rounds)

    def send(self, topic: str, messages: Mapping[int, Sequence[bytes]], headers: Headers | None = None) -> None:
        """Begins to send, to each partition its messages in order. What was sent before must have arrived."""
        assert not self.busy, "one chunk at a time"
        longest = max(map(len, messages.values()), default=0)
        for number in range(longest):
            self._rounds.append(
                [
                    (topic, partition, some[number], headers)
                    for partition, some in messages.items()
                    if number < len(some)
                ]
            )

    def wait(self, seconds: float) -> bool:
        """Whether all has arrived, after ``seconds`` at most. Raises ``DeliveryFailedError``."""
        while self.busy:
            if not self._on_the_way:
                self._begin_round()
            self._client.flush(seconds)
            if self._fault is not None or self.watch.fatal is not None:
                self._start_anew()
            if self._on_the_way:
                return False
        return True

    def close(self) -> None:
        """Lets go of the connection; what is on its way may or may not arrive."""
        self._client.purge()
        self._client.flush(1)

    def _begin_round(self) -> None:
        for topic, partition, value, headers in self._rounds.popleft():
            self._on_the_way += 1
            self._client.produce(topic, value, partition=partition, headers=headers, on_delivery=self._note_delivery)

    def _note_delivery(self, error: KafkaError | None, _: Message) -> None:
        self._on_the_way -= 1
        if error is None:
            self.watch.note_answer()
        else:
            self._fault = error

    def _start_anew(self) -> None:
        """A client that failed is not trusted with an order that it may have lost."""
        fault = self._fault or self.watch.fatal
        assert fault is not None
        self.close()
        self._rounds.clear()
        self._on_the_way, self._fault, self.watch.fatal = 0, None, None
        self._client = self._connect()
        raise DeliveryFailedError(fault.str())

    def _connect(self) -> Producer:
        return Producer(client_options(self._settings, self.watch) | _OPTIONS)
