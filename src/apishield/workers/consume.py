"""Takes events from Kafka into the ledger: exactly once, by as many workers as there are partitions.

A partition is claimed in the ledger when the group gives it to this worker, and read from the position that the claim tells.
Whatever goes wrong, the answer is the same: let go of the partition, claim it again, and read from where the ledger stands
then. While nothing can be claimed, because the database is away, nothing is read, and the worker stays in the group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec
from confluent_kafka import Message

from apishield.core.events import Intake
from apishield.core.ports import Clock
from apishield.errors import ConfigurationError
from apishield.services.drain import Ledger
from apishield.settings import Settings
from apishield.stores.kafka.connection import log
from apishield.stores.kafka.consumer import GroupReader
from apishield.stores.kafka.dead_letters import DeadLetters
from apishield.stores.kafka.topics import agree, stream_of
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.positions import Fenced
from apishield.workers.intake import Holding, IntakeStats, MessageIntake, offset_of, partition_of

POLL_SECONDS = 0.2
POLL_BYTES = 8 * 1024 * 1024
_LONGEST_PAUSE_SECONDS = 5.0
_TELL_SECONDS = 2.0
_SETTLE_SECONDS = 0.5
_HOUSEKEEPING_SECONDS = 3600.0

T = TypeVar("T")


class ConsumerStats(IntakeStats):
    """Plain numbers of one worker, which only grow, but for ``lag`` and ``partitions``.

    ``lag`` is how many messages wait, by partition: of all that the group has given to this worker. ``partitions`` are those
    that it has claimed. ``lost_messages`` were deleted by Kafka before they were taken.
    """

    fenced: int = 0
    failures: int = 0
    lost_messages: int = 0
    partitions: int = 0
    lag: dict[int, int] = msgspec.field(default_factory=dict)


class Consumer:
    """One worker. ``owner`` names it in the ledger's claims. ``run`` is its life."""

    def __init__(self, settings: Settings, database: Database, ledger: Ledger, clock: Clock, *, owner: str) -> None:
        self.stats = ConsumerStats()
        self._settings, self._database, self._ledger = settings, database, ledger
        self._clock, self._owner = clock, owner
        self._dead = DeadLetters(settings)
        self._intake = MessageIntake(ledger, self._bury, self.stats, clock)
        self._executor = ThreadPoolExecutor(1, "kafka-consumer")  # the client is synchronous
        self._held: dict[int, Holding] = {}
        self._reached: dict[int, int] = {}  # positions of partitions, also of those that were let go
        self._generation = 0
        self._reread: dict[int, int] = {}  # where a gap was seen, by partition: what is still missing then is not there
        self._stale = True  # whether what is being read is not what was claimed
        self._pause_seconds = 0.0
        self._failing: set[tuple[str, int | None]] = set()  # what has failed and not succeeded since
        self._due = dict.fromkeys(("claim", "tell", "renew", "settle", "tidy"), 0.0)

    async def run(self, stopping: asyncio.Event) -> None:
        """Takes events until ``stopping`` is set, then leaves the group.

        Raises ``ConfigurationError`` where the topic can't be used.
        """
        try:
            if not await self._prepare(stopping):
                return
            reader = await self._in_thread(partial(GroupReader, self._settings))
            try:
                while not stopping.is_set():
                    await self._round(reader)
            finally:
                await self._in_thread(reader.close)
        finally:
            await self._in_thread(self._dead.close)
            self._executor.shutdown()

    async def _prepare(self, stopping: asyncio.Event) -> bool:
        """Waits for the brokers and the database; ``False`` where it was told to stop meanwhile."""
        while not stopping.is_set():
            try:
                await agree(self._database, self._settings)
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001  brokers or database that are away come back
                self._note_failure("kafka.not_ready", error)
                try:
                    await asyncio.wait_for(stopping.wait(), self._pause_seconds)
                except TimeoutError:
                    continue
            else:
                self._note_success("kafka.not_ready")
                return True
        return False

    async def _round(self, reader: GroupReader) -> None:
        """Polls, sees to what the group and the ledger have changed, takes what came."""
        messages = await self._in_thread(partial(reader.poll, POLL_BYTES, POLL_SECONDS))
        if reader.generation != self._generation or self._is_due("renew"):
            # Now and then all is claimed anew, so that the ledger forgets no stream in which nothing happens.
            self._put_off("renew", _HOUSEKEEPING_SECONDS)
            self._generation = reader.generation
            self._failing.clear()  # what fails may be another's now
            self._let_go(list(self._held))
            messages = []  # of whom they are now is not known; they are read again
        for partition in sorted(reader.gone):
            await self._pass_gone(reader, partition)
        for partition, some in _by_partition(messages).items():
            await self._take_all(partition, some)
        await self._claim_missing(reader)
        if self._stale:
            await self._in_thread(partial(reader.read_from, self._positions()))
            self._stale = False
        await self._see_to_the_rest(reader)

    # --- claims ---------------------------------------------------------------------------------------------------------

    async def _claim_missing(self, reader: GroupReader) -> None:
        missing = sorted(reader.wanted - self._held.keys())
        if not missing or not self._is_due("claim"):
            return
        for partition in missing:
            try:
                claim = await self._ledger.claim(stream_of(reader.topic, partition), self._owner)
            except Exception as error:  # noqa: BLE001  a database that is away comes back
                self._note_failure("kafka.not_claimed", error)
                return
            self._held[partition] = Holding(partition, claim, claim.position)
            self._stale = True
        self._note_success("kafka.not_claimed")

    def _let_go(self, partitions: Iterable[int]) -> None:
        """Reads these no more, until they were claimed again."""
        for partition in partitions:
            holding = self._held.pop(partition, None)
            if holding is not None:
                self._reached[partition] = holding.position
        self._stale = True

    def _positions(self) -> dict[int, int]:
        return {partition: holding.position for partition, holding in self._held.items()}

    def _note_failure(self, event: str, error: BaseException, partition: int | None = None) -> None:
        """Tells of the first of a row of failures, and lets more and more time go by between them."""
        self.stats.failures += 1
        if (event, partition) not in self._failing:
            log.warning(event, partition=partition, error=f"{type(error).__name__}: {error}"[:500])
        self._failing.add((event, partition))
        self._pause_seconds = min(_LONGEST_PAUSE_SECONDS, max(0.5, self._pause_seconds * 2))
        self._put_off("claim", self._pause_seconds)

    def _note_success(self, event: str, partition: int | None = None) -> None:
        """What failed goes again. That a partition can be claimed says nothing yet of its messages."""
        if (event, partition) in self._failing:
            log.info("kafka.healed", after=event, partition=partition)
            self._failing.remove((event, partition))
            if not self._failing:
                self._pause_seconds = 0.0

    # --- messages -------------------------------------------------------------------------------------------------------

    async def _take_all(self, partition: int, messages: list[Message]) -> None:
        """Takes the messages of one partition, as long as it is this worker's."""
        holding = self._held.get(partition)
        if holding is None:
            return
        try:
            for some in _without_gap(message for message in messages if offset_of(message) >= holding.position):
                if not self._is_next(holding, offset_of(some[0])):
                    self._let_go([partition])
                    return
                await self._intake.take(holding, some)
                self._note_success("kafka.not_taken", partition)
        except Fenced as error:
            self.stats.fenced += 1
            log.warning("kafka.fenced", stream=holding.claim.stream, reason=str(error))
            self._let_go([partition])
            self._put_off("claim", 1.0)  # the group first says whose it is
        except Exception as error:  # noqa: BLE001  whatever it is, it is taken again, from where the ledger stands
            self._note_failure("kafka.not_taken", error, partition)
            self._let_go([partition])

    def _is_next(self, holding: Holding, offset: int) -> bool:
        """Whether nothing is missing before ``offset``. What is missing after it was read again is not there."""
        if offset == holding.position or self._reread.get(holding.partition) == holding.position:
            return True
        self._reread[holding.partition] = holding.position
        return False

    async def _bury(self, message: Message, reason: str) -> None:
        """Sends a message to the dead letters. It is passed over only once it has arrived there."""
        await self._in_thread(partial(self._dead.send, message, reason))

    async def _pass_gone(self, reader: GroupReader, partition: int) -> None:
        """Goes on behind messages that Kafka has deleted before they were taken; says how many they were."""
        holding = self._held.get(partition)
        if holding is None:
            return
        claim, position = holding.claim, holding.position
        try:
            first, behind = await self._in_thread(partial(reader.bounds, partition))
            if position >= first:
                raise ValueError(
                    f"{claim.stream} ends at {behind}, and the ledger is at {position}: Kafka lost messages"
                )
            log.error("kafka.messages_lost", stream=claim.stream, messages=first - position, reason="too old for Kafka")
            await self._ledger.apply(claim, Intake(claim.stream, position, first, []))
            self.stats.lost_messages += first - position
        except Exception as error:  # noqa: BLE001  tried again, and told by ``failures``, until it is mended
            self._note_failure("kafka.offset_gone", error, partition)
        self._let_go([partition])

    # --- the rest -------------------------------------------------------------------------------------------------------

    async def _see_to_the_rest(self, reader: GroupReader) -> None:
        """Lag for people and metrics; and, as the worker that has the first partition, what one worker does for all."""
        self.stats.partitions = len(self._held)
        if self._is_due("tell"):
            self._put_off("tell", _TELL_SECONDS)
            await self._tell(reader)
        is_first = 0 in self._held
        try:
            if is_first and self._is_due("settle"):
                self._put_off("settle", _SETTLE_SECONDS)
                await self._ledger.settle_pending()
            if self._held and self._is_due("tidy"):
                self._put_off("tidy", _HOUSEKEEPING_SECONDS)
                # Claimed anew, so that the ledger forgets no stream in which nothing happens.
                self._let_go(list(self._held))
                if is_first:
                    await self._ledger.keep_house()
        except Exception as error:  # noqa: BLE001  a database that is away comes back
            self._put_off("settle", _LONGEST_PAUSE_SECONDS)
            self._put_off("tidy", _LONGEST_PAUSE_SECONDS)
            log.warning("kafka.not_tidied", error=f"{type(error).__name__}: {error}"[:500])

    async def _tell(self, reader: GroupReader) -> None:
        """Also of partitions that can't be claimed, or that fail again and again: theirs is the lag that somebody must see."""
        positions = self._positions()
        self._reached = {partition: self._reached[partition] for partition in self._reached.keys() & reader.wanted}
        self._reached |= positions
        lag = self.stats.lag | await self._in_thread(partial(reader.waiting, self._reached))
        self.stats.lag = {partition: lag[partition] for partition in lag.keys() & reader.wanted}
        if positions:
            await self._in_thread(partial(reader.tell, positions))

    def _is_due(self, what: str) -> bool:
        return asyncio.get_running_loop().time() >= self._due[what]

    def _put_off(self, what: str, seconds: float) -> None:
        self._due[what] = asyncio.get_running_loop().time() + seconds

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _by_partition(messages: Iterable[Message]) -> dict[int, list[Message]]:
    found: dict[int, list[Message]] = {}
    for message in messages:
        found.setdefault(partition_of(message), []).append(message)
    return found


def _without_gap(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """The messages in lists of successive ones."""
    some: list[Message] = []
    for message in messages:
        if some and offset_of(message) != offset_of(some[-1]) + 1:
            yield some
            some = []
        some.append(message)
    if some:
        yield some
