"""Takes messages of a partition into the ledger; puts those aside that can't be taken, each once, and goes on behind them.

What can't be read is known at once. What can be read and still fails is found by halving: the others are taken. Failures that
are the database's (connections, locks, time-outs, room) put nothing aside: they are raised, and less is taken the next time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
from confluent_kafka import Message
from sqlalchemy.exc import DBAPIError

from apishield.core.events import Frame, Intake, SpoolPart
from apishield.core.ports import Clock
from apishield.services.drain import Ledger
from apishield.stores.kafka.connection import log
from apishield.stores.kafka.messages import UnreadableMessageError, decode_message, readable
from apishield.stores.sql.failures import Blame, blame_of
from apishield.stores.sql.ledger.positions import Claim, Fenced

INTAKE_BYTES: Final = 6 * 1024 * 1024
"""What one transaction takes, some 40,000 events; more waits for the next. More cost less each, but make others wait longer."""
MOST_MESSAGES: Final = 4096
TRIES: Final = {Blame.INPUT: 2, Blame.UNKNOWN: 5}
"""So often a message fails by itself before it is put aside; between two tries its partition is claimed anew."""


class IntakeStats(msgspec.Struct):
    """Plain numbers, which only grow."""

    messages: int = 0
    bytes: int = 0
    intakes: int = 0
    dead_letters: int = 0
    taken_at_us: int = 0


class Holding(msgspec.Struct):
    """A partition that this worker has claimed, and up to where it has taken it."""

    partition: int
    claim: Claim
    position: int


class _Read(NamedTuple):
    """A message, and what of it can be read."""

    message: Message
    part: SpoolPart


class _Suspect(msgspec.Struct):
    """A message that has failed by itself: how often, and how much this worker had taken when it did first."""

    offset: int
    intakes: int
    tries: int = 0


class MessageIntake:
    """The messages of all partitions of one worker. ``bury`` sends one to the dead letters, and returns when it is there."""

    def __init__(
        self, ledger: Ledger, bury: Callable[[Message, str], Awaitable[None]], stats: IntakeStats, clock: Clock
    ) -> None:
        self._ledger, self._bury_there, self._stats, self._clock = ledger, bury, stats, clock
        self._at_once: dict[int, int] = {}  # messages, where fewer than usual are taken, because the last intake failed
        self._suspects: dict[int, _Suspect] = {}
        self._buried: dict[int, int] = {}  # the last one of each partition: until it is passed over it comes again

    async def take(self, holding: Holding, messages: Sequence[Message]) -> None:
        """Takes successive messages, the first of which is the next one, and moves ``holding`` on.

        Raises ``Fenced``, what the ledger raises, and what keeps a dead letter from arriving; what was taken until then is.
        """
        partition = holding.partition
        at_once = self._at_once.get(partition, MOST_MESSAGES)
        for some in _slices(messages, at_once):
            try:
                await self._take_readable(holding, some)
            except Fenced:
                raise
            except Exception:
                self._at_once[partition] = max(1, min(at_once, len(some)) // 2)
                raise
        if at_once < MOST_MESSAGES:
            self._at_once[partition] = 2 * at_once

    async def _take_readable(self, holding: Holding, messages: Iterable[Message]) -> None:
        """Takes messages up to one that can't be read, sends a letter, passes that over in its own step, and so on."""
        some: list[_Read] = []
        for message in messages:
            part, reason = _read(message)
            if reason is not None:
                await self._take(holding, some)
                some.clear()
                await self._bury(message, reason)
                await self._take(holding, [_Read(message, part)])
            else:
                some.append(_Read(message, part))
        await self._take(holding, some)

    async def _take(self, holding: Holding, some: Sequence[_Read]) -> None:
        """Takes all of it in one transaction; where that fails by what is in it, in halves, down to the message that does."""
        if not some:
            return
        try:
            await self._apply(holding, some, _joined(each.part for each in some))
            self._stats.intakes += 1
        except Fenced:
            raise
        except Exception as error:
            blame = blame_of(error)
            if blame is Blame.DATABASE:
                raise
            if len(some) > 1:
                half = len(some) // 2
                await self._take(holding, some[:half])
                await self._take(holding, some[half:])
                return
            if not self._is_at_fault(holding.partition, some[0].message, blame):
                raise
            await self._bury(some[0].message, f"untakable: the ledger failed at it: {_told(error)}")
            await self._apply(holding, some, [])

    async def _apply(self, holding: Holding, some: Sequence[_Read], parts: list[SpoolPart]) -> None:
        end = offset_of(some[-1].message) + 1
        await self._ledger.apply(holding.claim, Intake(holding.claim.stream, holding.position, end, parts))
        holding.position = end
        self._stats.messages += len(some)
        self._stats.bytes += sum(len(each.message) for each in some)
        self._stats.taken_at_us = self._clock()

    def _is_at_fault(self, partition: int, message: Message, blame: Blame) -> bool:
        """Whether it is this one message. Its partition was claimed before each try, so the database answers.

        Where that leaves a doubt, others must have been taken meanwhile: else a schema that is another version's would put
        all messages aside.
        """
        suspect = self._suspects.get(partition)
        if suspect is None or suspect.offset != offset_of(message):
            suspect = self._suspects[partition] = _Suspect(offset_of(message), self._stats.intakes)
        suspect.tries += 1
        if suspect.tries < TRIES[blame]:
            return False
        return blame is Blame.INPUT or self._stats.intakes > suspect.intakes

    async def _bury(self, message: Message, reason: str) -> None:
        """Sends a message to the dead letters, unless that was done before its partition had to be claimed anew."""
        partition, offset = partition_of(message), offset_of(message)
        if self._buried.get(partition, -1) >= offset:
            return
        log.error("kafka.dead_letter", partition=partition, offset=offset, reason=reason)
        await self._bury_there(message, reason)
        self._buried[partition] = offset
        self._stats.dead_letters += 1


def offset_of(message: Message) -> int:
    """Where a message lies that came from a partition."""
    offset = message.offset()
    assert offset is not None
    return offset


def partition_of(message: Message) -> int:
    """The partition that a message came from."""
    number = message.partition()
    assert number is not None
    return number


def _read(message: Message) -> tuple[SpoolPart, str | None]:
    """What of a message can be read, and, where that is not all, why."""
    try:
        return readable(decode_message(message.value()))
    except UnreadableMessageError as error:
        return SpoolPart(0, []), str(error)


def _told(error: Exception) -> str:
    """The kind of an error and its first line: a statement with its parameters is too much for a header."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}"[:300]


def _slices(messages: Iterable[Message], most: int) -> Iterator[list[Message]]:
    """The messages in lists of about what one transaction should take, ``most`` at most."""
    some: list[Message] = []
    size = 0
    for message in messages:
        if some and (size + len(message) > INTAKE_BYTES or len(some) == most):
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
