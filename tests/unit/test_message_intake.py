"""The one message that can't be taken is found and put aside, once; all others are taken, once; other trouble waits."""

from __future__ import annotations

import msgspec
import psycopg
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DataError, OperationalError, ProgrammingError

from apishield.core.events import DecisionEvent, Frame, Intake
from apishield.errors import ProblemError
from apishield.stores.kafka.messages import encode_messages
from apishield.stores.sql.failures import Blame, blame_of, unavailable
from apishield.stores.sql.ledger.positions import Claim
from apishield.workers.consume import ConsumerStats
from apishield.workers.intake import TRIES, Holding, MessageIntake
from tests.support.clock import ManualClock
from tests.support.spool import MemoryLedger, decision

GARBAGE = b"\xc1"
STREAM = "kafka:events:{}"


class Refused(psycopg.Error):
    """What PostgreSQL answers, with its code."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("refused\nDETAIL: nobody's business")
        self.sqlstate = sqlstate


class PickyLedger(MemoryLedger):
    """Fails at certain decisions, each in its own way."""

    def __init__(self, refuses: dict[int, Exception] | None = None) -> None:
        super().__init__()
        self.refuses = refuses or {}
        self.intakes: list[int] = []

    async def apply(self, claim: Claim, intake: Intake) -> None:
        """As the ledger of memory does, unless a decision is refused."""
        found = [event for part in intake.parts for frame in part.frames for event in frame.events()]
        self.intakes.append(len(found))
        for event in found:
            if isinstance(event, DecisionEvent) and event.sequence in self.refuses:
                raise self.refuses[event.sequence]
        await super().apply(claim, intake)


class Partition:
    """A partition, what is in it, and a worker that reads it as ``Consumer`` does: claims it anew after each failure."""

    def __init__(self, intake: MessageIntake, ledger: MemoryLedger, values: list[bytes], number: int = 0) -> None:
        self.number = number
        self._intake, self._ledger = intake, ledger
        self._messages = [
            Message(topic="events", partition=number, offset=offset, value=value) for offset, value in enumerate(values)
        ]

    async def read(self) -> Exception | None:
        """Tries to take all that there is; what failed."""
        claim = await self._ledger.claim(STREAM.format(self.number), "worker")
        try:
            await self._intake.take(Holding(self.number, claim, claim.position), self._messages[claim.position :])
        except Exception as error:  # noqa: BLE001  as the worker does
            return error
        return None


class Letters:
    """The dead letters: partition, offset, reason."""

    def __init__(self) -> None:
        self.sent: list[tuple[int | None, int | None, str]] = []

    async def bury(self, message: Message, reason: str) -> None:
        """Keeps one."""
        self.sent.append((message.partition(), message.offset(), reason))


def intake_into(ledger: MemoryLedger) -> tuple[MessageIntake, Letters, ConsumerStats]:
    letters, stats = Letters(), ConsumerStats()
    return MessageIntake(ledger, letters.bury, stats, ManualClock()), letters, stats


def message(sequence: int) -> bytes:
    (value,) = encode_messages(sequence, [Frame(9, encoded([decision(sequence)]))])
    return value


def encoded(events: list[DecisionEvent]) -> bytes:
    return msgspec.msgpack.encode(events)


def sequences(ledger: MemoryLedger) -> list[int]:
    return [event.sequence for event in ledger.events if isinstance(event, DecisionEvent)]


@given(
    kinds=st.lists(st.sampled_from(["good", "good", "good", "garbage", "refused"]), max_size=60),
    away=st.lists(st.integers(0, 30), max_size=3),
)
async def test_whatever_is_wrong_with_which_messages_the_others_are_taken_once_and_those_buried_once(
    kinds: list[str], away: list[int]
) -> None:
    """Also where the database is away at some of the calls."""
    ledger = PickyLedger({number: ValueError("refused") for number, kind in enumerate(kinds) if kind == "refused"})
    intake, letters, stats = intake_into(ledger)
    values = [GARBAGE if kind == "garbage" else message(number) for number, kind in enumerate(kinds)]
    partition = Partition(intake, ledger, values)
    tries = 0
    for tries in range(400):
        claimed = await ledger.claim(STREAM.format(0), "someone")
        if claimed.position == len(values):
            break
        if tries in away:
            ledger.refuses, kept = dict.fromkeys(range(len(values)), unavailable()), ledger.refuses
            await partition.read()
            ledger.refuses = kept
        else:
            await partition.read()
    assert tries <= 2 * kinds.count("refused") + len(away) + 2
    assert sequences(ledger) == [number for number, kind in enumerate(kinds) if kind == "good"]
    assert [offset for _, offset, _ in letters.sent] == [n for n, kind in enumerate(kinds) if kind != "good"]
    assert stats.dead_letters == len(letters.sent)
    assert stats.messages == len(kinds)


async def test_the_one_message_is_found_by_halving() -> None:
    ledger = PickyLedger({777: DataError("INSERT …", None, Refused("22021"))})
    intake, letters, _ = intake_into(ledger)
    partition = Partition(intake, ledger, [message(number) for number in range(1000)])
    while await partition.read() is not None:
        pass
    assert letters.sent == [(0, 777, "untakable: the ledger failed at it: Refused: refused")]
    assert len(sequences(ledger)) == 999
    assert len(ledger.intakes) < 50


async def test_trouble_of_the_database_puts_nothing_aside_and_what_is_before_it_is_taken() -> None:
    ledger = PickyLedger({700: unavailable()})
    intake, letters, stats = intake_into(ledger)
    partition = Partition(intake, ledger, [message(number) for number in range(1000)])
    for _ in range(50):
        assert await partition.read() is ledger.refuses[700]
    assert letters.sent == []
    assert sequences(ledger) == list(range(700))
    ledger.refuses.clear()
    assert await partition.read() is None
    assert sequences(ledger) == list(range(1000))
    assert stats.messages == 1000


async def test_what_may_be_the_schemas_fault_is_a_messages_only_while_others_are_taken() -> None:
    """A table that is missing fails all; nothing must be put aside for it, however long that lasts."""
    missing = ProgrammingError("INSERT …", None, Refused("42P01"))
    ledger = PickyLedger({3: missing, 10: missing})
    intake, letters, _ = intake_into(ledger)
    first = Partition(intake, ledger, [message(3), message(4)])
    second = Partition(intake, ledger, [message(10), message(11)], number=1)
    for _ in range(3 * TRIES[Blame.UNKNOWN]):
        assert await first.read() is missing
        assert await second.read() is missing
    assert letters.sent == []
    del ledger.refuses[10]
    assert await second.read() is None
    assert await first.read() is None
    assert [letter[:2] for letter in letters.sent] == [(0, 0)]
    assert sequences(ledger) == [10, 11, 4]


async def test_of_a_message_of_several_frames_those_that_can_be_read_are_taken() -> None:
    ledger = PickyLedger()
    intake, letters, _ = intake_into(ledger)
    frames = [Frame(10, encoded([decision(1)])), Frame(20, GARBAGE), Frame(30, encoded([decision(2)]))]
    (value,) = encode_messages(7, frames)
    assert await Partition(intake, ledger, [value, message(3)]).read() is None
    assert sequences(ledger) == [1, 2, 3]
    assert [reason.partition(":")[0] for _, _, reason in letters.sent] == ["undecodable"]


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        (unavailable(), Blame.DATABASE),
        (ProblemError("storage_full", "The disk is full."), Blame.DATABASE),
        (ProblemError("conflict", "Another did the same."), Blame.UNKNOWN),
        (ConnectionResetError(), Blame.DATABASE),
        (TimeoutError(), Blame.DATABASE),
        (OperationalError("", None, Refused("57014")), Blame.DATABASE),  # a time-out
        (OperationalError("", None, Refused("55P03")), Blame.DATABASE),  # a lock
        (OperationalError("", None, Refused("53100")), Blame.DATABASE),  # the disk
        (OperationalError("", None, Refused("40P01")), Blame.DATABASE),  # a deadlock
        (OperationalError("", None, Refused(None)), Blame.DATABASE),  # no connection
        (OperationalError("", None, Refused("54000")), Blame.INPUT),
        (DataError("", None, Refused("22003")), Blame.INPUT),
        (DataError("", None, Refused(None)), Blame.INPUT),  # the driver refuses NUL by itself
        (ProgrammingError("", None, Refused("42703")), Blame.UNKNOWN),
        (OverflowError("Python int too large"), Blame.INPUT),
        (MemoryError(), Blame.UNKNOWN),
    ],
)
def test_whose_fault_a_failure_is(error: Exception, blame: Blame) -> None:
    assert blame_of(error) is blame
