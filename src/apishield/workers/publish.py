"""Publishes what processes of this node have spooled to Kafka: what a drain has in the place of the ledger where Kafka is used.

``SpoolDrain`` reads, adopts and removes spools as it does without Kafka. Here "applied" means: all that was read has arrived
at the brokers, and that is noted on the disk. What takes it into the ledger is ``workers.consume``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from apishield.core.events import Intake, SpoolPart
from apishield.core.ports import Clock
from apishield.settings import Settings
from apishield.stores.kafka.messages import encode_messages, split
from apishield.stores.kafka.producer import DeliveryFailedError, EventProducer
from apishield.stores.kafka.published import read_published, write_published
from apishield.stores.kafka.topics import Agreement, agree
from apishield.stores.spool.files import spool_name
from apishield.stores.spool.frames import events_in
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.positions import Claim, Fenced, Positions

WAIT_SECONDS = 2.0
"""How long one call waits for the brokers. What is on its way stays so; the next call waits on."""

T = TypeVar("T")


class BrokersAwayError(Exception):
    """The brokers have not taken all of it yet. It is on its way; what comes next waits in the spool."""


class PublisherStats(msgspec.Struct):
    """Plain numbers of one publisher, which only grow, but for ``waiting_since_us``: 0 where nothing waits to arrive.

    What counts is what has arrived, whichever call has waited for it. Each call in vain is one of ``failures``.
    """

    events: int = 0
    messages: int = 0
    bytes: int = 0
    failures: int = 0
    published_at_us: int = 0
    waiting_since_us: int = 0

    def age_seconds(self, now_us: int) -> float:
        """For how long the oldest events wait for the brokers."""
        return max(0, now_us - self.waiting_since_us) / 1_000_000 if self.waiting_since_us else 0.0


class _Sending(NamedTuple):
    spool: int
    end: int
    events: int
    messages: int
    bytes: int


class Publisher:
    """A ``services.drain.Ledger`` behind which Kafka lies. Streams are those of spools: ``spool:0a1b2c3d``."""

    def __init__(self, spool_root: Path, settings: Settings, database: Database, clock: Clock) -> None:
        self.stats = PublisherStats()
        self._root, self._settings, self._database, self._clock = spool_root, settings, database, clock
        self._agreement: Agreement | None = None
        self._published: dict[int, int] = {}
        self._sending: _Sending | None = None
        self._producer: EventProducer | None = None
        self._executor = ThreadPoolExecutor(1, "kafka-publisher")  # the client is synchronous

    async def claim(self, stream: str, owner: str) -> Claim:
        """Up to where the spool was published. Nobody is fenced: only one process of a node drains."""
        spool = int(stream.partition(":")[2], 16)
        position = self._published.get(spool)
        if position is None:
            noted = await self._in_thread(partial(read_published, self._root, spool))
            position = max(noted or 0, await self._taken_without_kafka(stream))
            if position != noted:
                await self._in_thread(partial(write_published, self._root, spool, position))
        self._published[spool] = position
        return Claim(stream, position, 0)

    async def apply(self, claim: Claim, intake: Intake, /) -> None:
        """Publishes the frames. Raises ``BrokersAwayError`` while they are on their way, ``DeliveryFailedError``, and
        ``Fenced`` where what was on its way before has meanwhile arrived, so that ``intake`` is out of date.
        """
        self.stats.waiting_since_us = self.stats.waiting_since_us or self._clock()
        try:
            await self._publish(claim, intake)
        except Fenced:
            raise
        except Exception:
            self.stats.failures += 1
            raise

    async def _publish(self, claim: Claim, intake: Intake) -> None:
        topic, partitions = self._settings.kafka_topic, (await self._agreed()).partitions
        producer = self._connected()
        if self._sending is not None:
            await self._arrive(producer)
        for part in intake.parts:
            if self._published.get(part.spool) != intake.start:
                raise Fenced(f"{claim.stream} was published beyond {intake.start}")
            messages = await self._in_thread(partial(_messages, part, partitions))
            self._sending = _Sending(
                part.spool,
                intake.end,
                sum(events_in(frame.payload) for frame in part.frames),
                sum(map(len, messages.values())),
                sum(len(value) for some in messages.values() for value in some),
            )
            producer.send(topic, messages)
            await self._arrive(producer)

    async def settle_pending(self) -> int:
        """Nothing: results are joined where they are taken into the ledger."""
        return 0

    async def keep_house(self) -> None:
        """Forgets spools that are gone."""
        self._published = {
            spool: position for spool, position in self._published.items() if (self._root / spool_name(spool)).exists()
        }

    def close(self) -> None:
        """Lets go of the brokers. What has not arrived is published again by the next publisher."""
        if self._producer is not None:
            self._executor.submit(self._producer.close).result()
            self._producer = None
        self._executor.shutdown()

    async def _arrive(self, producer: EventProducer) -> None:
        """Waits for what is on its way, and notes that it has arrived."""
        sending = self._sending
        assert sending is not None
        try:
            arrived = await self._in_thread(partial(producer.wait, WAIT_SECONDS))
        except DeliveryFailedError:
            self._sending = None
            raise
        if not arrived:
            raise BrokersAwayError(f"what the spool {spool_name(sending.spool)} holds up to {sending.end}")
        await self._in_thread(partial(write_published, self._root, sending.spool, sending.end))
        self._published[sending.spool] = sending.end
        self._sending = None
        self.stats.events += sending.events
        self.stats.messages += sending.messages
        self.stats.bytes += sending.bytes
        self.stats.published_at_us, self.stats.waiting_since_us = self._clock(), 0

    async def _agreed(self) -> Agreement:
        if self._agreement is None:
            self._agreement = await agree(self._database, self._settings)
        return self._agreement

    def _connected(self) -> EventProducer:
        if self._producer is None:
            self._producer = EventProducer(self._settings)
        return self._producer

    async def _taken_without_kafka(self, stream: str) -> int:
        """Up to where the ledger took the spool itself, while this node was not told to use Kafka."""
        async with self._database.read() as tx:
            positions = {name: position for name, position, _ in await Positions(tx.connection).all()}
        return positions.get(stream, 0)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _messages(part: SpoolPart, partitions: int) -> dict[int, list[bytes]]:
    """What is sent to each partition, in order."""
    return {number: encode_messages(part.spool, frames) for number, frames in split(part, partitions).items()}
