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

from apishield.core.events import Frame, Intake, SpoolPart
from apishield.core.ports import Clock
from apishield.errors import ConfigurationError
from apishield.services.drain import PASSING, Ledger
from apishield.settings import Settings
from apishield.stores.kafka.connection import log
from apishield.stores.kafka.consumer import GroupReader
from apishield.stores.kafka.dead_letters import DeadLetters
from apishield.stores.kafka.messages import UnreadableMessageError, decode_message, readable
from apishield.stores.kafka.topics import agree, stream_of
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.positions import Claim, Fenced

POLL_SECONDS = 0.2
POLL_BYTES = 8 * 1024 * 1024
INTAKE_BYTES = 6 * 1024 * 1024
"""What one transaction takes, some 40,000 events; more waits for the next. More cost less each, but make others wait longer."""
_LONGEST_PAUSE_SECONDS = 5.0
_TELL_SECONDS = 2.0
_SETTLE_SECONDS = 0.5
_HOUSEKEEPING_SECONDS = 3600.0

T = TypeVar("T")


class ConsumerStats(msgspec.Struct):
    """Plain numbers of one worker, which only grow, but for ``lag`` and ``partitions``.

    ``lag`` is how many messages wait, by partition. ``lost_messages`` were deleted by Kafka before they were taken.
    """

    messages: int = 0
    bytes: int = 0
    intakes: int = 0
    dead_letters: int = 0
    fenced: int = 0
    failures: int = 0
    lost_messages: int = 0
    taken_at_us: int = 0
    partitions: int = 0
    lag: dict[int, int] = {}


class Consumer:
    """One worker. ``owner`` names it in the ledger's claims. ``run`` is its life."""

    def __init__(self, settings: Settings, database: Database, ledger: Ledger, clock: Clock, *, owner: str) -> None:
        self.stats = ConsumerStats()
        self._settings, self._database, self._ledger = settings, database, ledger
        self._clock, self._owner = clock, owner
        self._dead = DeadLetters(settings)
        self._executor = ThreadPoolExecutor(1, "kafka-consumer")  # the client is synchronous
        self._claims: dict[int, Claim] = {}
        self._positions: dict[int, int] = {}
        self._generation = 0
        self._reread: dict[int, int] = {}  # where a gap was seen, by partition: what is still missing then is not there
        self._stale = True  # whether what is being read is not what was claimed
        self._pause_seconds = 0.0
        self._failing: tuple[str, int | None] | None = None  # what failed last and has not succeeded since
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
            self._let_go(list(self._claims))
            messages = []  # of whom they are now is not known; they are read again
        for partition in sorted(reader.gone):
            await self._pass_gone(reader, partition)
        for partition, some in _by_partition(messages).items():
            await self._take_all(partition, some)
        await self._claim_missing(reader)
        if self._stale:
            await self._in_thread(partial(reader.read_from, dict(self._positions)))
            self._stale = False
        await self._see_to_the_rest(reader)

    # --- claims ---------------------------------------------------------------------------------------------------------

    async def _claim_missing(self, reader: GroupReader) -> None:
        missing = sorted(reader.wanted - self._claims.keys())
        if not missing or not self._is_due("claim"):
            return
        for partition in missing:
            try:
                claim = await self._ledger.claim(stream_of(reader.topic, partition), self._owner)
            except Exception as error:  # noqa: BLE001  a database that is away comes back
                self._note_failure("kafka.not_claimed", error)
                return
            self._claims[partition], self._positions[partition] = claim, claim.position
            self._stale = True
        self._note_success("kafka.not_claimed")

    def _let_go(self, partitions: Iterable[int]) -> None:
        """Reads these no more, until they were claimed again."""
        for partition in partitions:
            self._claims.pop(partition, None)
            self._positions.pop(partition, None)
        self._stale = True

    def _note_failure(self, event: str, error: BaseException, partition: int | None = None) -> None:
        """Tells of the first of a row of failures, and lets more and more time go by between them."""
        self.stats.failures += 1
        if (event, partition) != self._failing:
            log.warning(event, partition=partition, error=f"{type(error).__name__}: {error}"[:500])
        self._failing = event, partition
        self._pause_seconds = min(_LONGEST_PAUSE_SECONDS, max(0.5, self._pause_seconds * 2))
        self._put_off("claim", self._pause_seconds)

    def _note_success(self, event: str, partition: int | None = None) -> None:
        """What failed goes again. That a partition can be claimed says nothing yet of its messages."""
        if self._failing == (event, partition):
            log.info("kafka.healed", after=event, partition=partition)
            self._failing, self._pause_seconds = None, 0.0

    # --- messages -------------------------------------------------------------------------------------------------------

    async def _take_all(self, partition: int, messages: list[Message]) -> None:
        """Takes the messages of one partition, as long as it is this worker's."""
        for some in _slices(messages):
            claim = self._claims.get(partition)
            following = [message for message in some if _offset(message) >= self._positions.get(partition, 0)]
            if claim is None or not following:
                continue
            if not self._is_next(partition, _offset(following[0])):
                self._let_go([partition])
                return
            try:
                await self._take(partition, claim, following)
            except Fenced as error:
                self.stats.fenced += 1
                log.warning("kafka.fenced", stream=claim.stream, reason=str(error))
                self._let_go([partition])
                self._put_off("claim", 1.0)  # the group first says whose it is
                return
            except Exception as error:  # noqa: BLE001  whatever it is, it is taken again, from where the ledger stands
                self._note_failure("kafka.not_taken", error, partition)
                self._let_go([partition])
                return

    def _is_next(self, partition: int, offset: int) -> bool:
        """Whether nothing is missing before ``offset``. What is missing after it was read again is not there."""
        expected = self._positions[partition]
        if offset == expected or self._reread.get(partition) == expected:
            return True
        self._reread[partition] = expected
        return False

    async def _take(self, partition: int, claim: Claim, messages: list[Message]) -> None:
        start, end = self._positions[partition], _offset(messages[-1]) + 1
        parts = [await self._read(message) for message in messages]
        try:
            await self._ledger.apply(claim, Intake(claim.stream, start, end, _joined(parts)))
        except (Fenced, *PASSING):
            raise
        except Exception as error:  # noqa: BLE001  no later try would go better
            if len(messages) > 1:
                for message in messages:
                    await self._take(partition, claim, [message])
                return
            await self._bury(messages[0], f"untakable: the ledger failed at it ({type(error).__name__})")
            await self._ledger.apply(claim, Intake(claim.stream, start, end, []))
        self._positions[partition] = end
        self._note_success("kafka.not_taken", partition)
        self.stats.intakes += 1
        self.stats.messages += len(messages)
        self.stats.bytes += sum(map(len, messages))
        self.stats.taken_at_us = self._clock()

    async def _read(self, message: Message) -> SpoolPart:
        """What of a message can be read. Where that is not all, the message goes to the dead letters."""
        part, reason = SpoolPart(0, []), None
        try:
            part, reason = readable(decode_message(message.value()))
        except UnreadableMessageError as error:
            reason = str(error)
        if reason is not None:
            await self._bury(message, reason)
        return part

    async def _bury(self, message: Message, reason: str) -> None:
        """Sends a message to the dead letters. It is passed over only once it has arrived there."""
        log.error("kafka.dead_letter", partition=message.partition(), offset=message.offset(), reason=reason)
        await self._in_thread(partial(self._dead.send, message, reason))
        self.stats.dead_letters += 1

    async def _pass_gone(self, reader: GroupReader, partition: int) -> None:
        """Goes on behind messages that Kafka has deleted before they were taken; says how many they were."""
        claim = self._claims.get(partition)
        if claim is None:
            return
        position = self._positions[partition]
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
        self.stats.partitions = len(self._claims)
        if self._is_due("tell"):
            self._put_off("tell", _TELL_SECONDS)
            newest = {
                partition: await self._in_thread(partial(reader.newest, partition)) for partition in self._positions
            }
            self.stats.lag = {
                partition: max(0, end - self._positions[partition])
                for partition, end in newest.items()
                if end is not None
            }
            if self._positions:
                await self._in_thread(partial(reader.tell, dict(self._positions)))
        is_first = 0 in self._claims
        try:
            if is_first and self._is_due("settle"):
                self._put_off("settle", _SETTLE_SECONDS)
                await self._ledger.settle_pending()
            if self._claims and self._is_due("tidy"):
                self._put_off("tidy", _HOUSEKEEPING_SECONDS)
                self._let_go(
                    list(self._claims)
                )  # claimed anew, so that the ledger forgets no stream in which nothing happens
                if is_first:
                    await self._ledger.keep_house()
        except Exception as error:  # noqa: BLE001  a database that is away comes back
            self._put_off("settle", _LONGEST_PAUSE_SECONDS)
            self._put_off("tidy", _LONGEST_PAUSE_SECONDS)
            log.warning("kafka.not_tidied", error=f"{type(error).__name__}: {error}"[:500])

    def _is_due(self, what: str) -> bool:
        return asyncio.get_running_loop().time() >= self._due[what]

    def _put_off(self, what: str, seconds: float) -> None:
        self._due[what] = asyncio.get_running_loop().time() + seconds

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset


def _by_partition(messages: Iterable[Message]) -> dict[int, list[Message]]:
    found: dict[int, list[Message]] = {}
    for message in messages:
        found.setdefault(message.partition() or 0, []).append(message)
    return found


def _slices(messages: list[Message]) -> Iterator[list[Message]]:
    """The messages in lists of about what one transaction should take."""
    some: list[Message] = []
    size = 0
    for message in messages:
        if some and size + len(message) > INTAKE_BYTES:
            yield some
            some, size = [], 0
        some.append(message)
        size += len(message)
    if some:
        yield some


def _joined(parts: Iterable[SpoolPart]) -> list[SpoolPart]:
    """One part a spool, with its frames as they came; those that were published twice are known to the ledger."""
    found: dict[int, list[Frame]] = {}
    for part in parts:
        if part.frames:
            found.setdefault(part.spool, []).extend(part.frames)
    return [SpoolPart(spool, frames) for spool, frames in found.items()]
