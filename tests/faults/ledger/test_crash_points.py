"""A process is killed between every two steps of write → answer → drain → commit → forget, one after the other."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from apishield.api.dataplane.answers import Answer
from apishield.api.dataplane.outbox import Outbox
from apishield.core.events import HELD, DecisionEvent, Event, ResultEvent, SettlementEvent
from apishield.services.ledger import LedgerService
from apishield.stores.spool import SpoolWriter
from apishield.stores.sql.database import Database
from apishield.workers.ledger import LedgerWorker
from tests.faults.ledger.books import audit
from tests.faults.ledger.mortal import Killed, Steps, bury
from tests.faults.ledger.notes import Notes, Question, Told
from tests.support.clock import ManualClock
from tests.support.database import SECRETS

TENANT, KEY = "ten_mortal", "key_1"
FIRST, SECOND = 0xA1, 0xB2
MAX_BYTES = 1 << 24
ALL_BYTES = 1 << 30


class Client:
    """Who waits for an answer; notes what came."""

    def __init__(self, steps: Steps, told: Sequence[Event], notes: Notes) -> None:
        self._steps, self._told, self._notes = steps, told, notes

    def deliver(self, answer: Answer) -> None:
        """Has it, unless the process died before."""
        if self._steps.is_dead:
            return
        by_number = {question.number: question for question in self._notes.questions}
        for event in self._told:
            question = by_number[event.sequence]  # type: ignore[union-attr]
            if isinstance(event, DecisionEvent):
                question.answered("dec_", event.code)
            elif isinstance(event, ResultEvent):
                assert question.told is not None
                question.told.sure = True
            elif isinstance(event, SettlementEvent):
                question.was_settled(question.finals[-1], taken=True)


class Life:
    """A process with a spool, and the worker beside it; killed when ``steps`` says so."""

    def __init__(
        self, root: Path, spool: int, database: Database, clock: ManualClock, steps: Steps, notes: Notes
    ) -> None:
        self.spool, self._clock, self._steps, self._notes = spool, clock, steps, notes
        self.writer = SpoolWriter(root, spool, clock)
        ledger = LedgerService(database, clock)
        self.worker = LedgerWorker(root, ledger, clock, owner=f"{spool:x}", max_bytes=ALL_BYTES)
        self._outbox = Outbox(self.writer.flush)

    async def turn(self, *events: Event) -> None:
        """What a turn of the loop does: notes events, writes them down, answers."""
        for event in events:
            self._note(event)
            self.writer.append(event)
        self._outbox._waiting.append((Client(self._steps, events, self._notes), Answer(200, [], b"")))
        self._outbox._send()

    async def drain(self) -> None:
        """What the worker does five times a second."""
        await self.worker.drain.catch_up()

    def end(self) -> None:
        """Lets go of everything, as the kernel does."""
        bury(self.writer)
        self.worker.drain.close()

    def _note(self, event: Event) -> None:
        if isinstance(event, DecisionEvent):
            units = {"requests": event.units} if isinstance(event.units, int) else dict(event.units)
            self._notes.questions.append(
                Question(event.sequence, KEY, "GET", event.path or "", "/files/{id}", "DE", "live", units)
            )
            return
        assert isinstance(event, ResultEvent | SettlementEvent)
        question = next(question for question in self._notes.questions if question.number == event.sequence)
        if isinstance(event, ResultEvent):
            question.told = question.told or Told(event.status, event.latency_us / 1000, event.bytes or 0)
        else:
            question.settles({**question.units, **event.units})


def decision(sequence: int, at_us: int, code: str = "ok", flags: int = 0) -> DecisionEvent:
    units = {"requests": 1, "tokens": 100 + sequence} if flags & HELD else sequence
    return DecisionEvent(
        sequence, at_us, TENANT, code, flags, KEY, method="GET", path=f"/files/{sequence}", country="DE", units=units
    )


def result(sequence: int, at_us: int) -> ResultEvent:
    return ResultEvent(FIRST, sequence, at_us // 1000, TENANT, at_us, 200 + sequence, 1000 * sequence, sequence)


def settlement(sequence: int, at_us: int) -> SettlementEvent:
    return SettlementEvent(FIRST, sequence, at_us // 1000, TENANT, at_us, {"tokens": 7})


async def live(life: Life, at_us: int) -> None:
    """Some turns: decisions of both kinds, results in the same turn, later, and twice; a settlement; all drained in between."""
    await life.turn(decision(1, at_us), decision(2, at_us, "rate_limited"), decision(3, at_us, flags=HELD))
    await life.turn(decision(4, at_us), result(4, at_us))
    await life.drain()
    await life.turn(result(1, at_us), result(4, at_us))
    await life.turn(settlement(3, at_us), decision(5, at_us))
    await life.drain()
    await life.turn(result(3, at_us), result(2, at_us))
    await life.drain()


async def outlive(database: Database, root: Path, clock: ManualClock, steps: Steps) -> Notes:
    """One life, which ends as ``steps`` says, and its successor, who is told all results again; returns what was answered."""
    notes = Notes()
    life = Life(root, FIRST, database, clock, steps, notes)
    with contextlib.suppress(Killed):
        await live(life, clock())
    life.end()
    steps.undo()
    heir = Life(root, SECOND, database, clock, Steps(pytest.MonkeyPatch()), notes)
    at_us = clock()
    try:
        await heir.turn(*(result(question.number, at_us) for question in notes.answered()))
        await heir.drain()
        clock.advance(3600)  # whatever was put off is due
        await heir.drain()
        assert [reader.spool for reader in heir.worker.drain.spools.readers()] == [SECOND], "the orphan is still there"
    finally:
        heir.end()
        heir._steps.undo()
    return notes


@pytest_asyncio.fixture
async def template(tmp_path: Path, clock: ManualClock) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path / "template.db"
    database = Database(f"sqlite:///{path}", clock, audit_key=SECRETS.audit_key())
    await database.migrate()
    await database.close()
    return path


@contextlib.asynccontextmanager
async def copied(template: Path, directory: Path, clock: ManualClock) -> AsyncIterator[Database]:
    directory.mkdir()
    shutil.copy(template, directory / "apishield.db")
    database = Database(f"sqlite:///{directory / 'apishield.db'}", clock, audit_key=SECRETS.audit_key())
    yield database
    await database.close()


async def test_wherever_a_process_is_killed_its_successor_takes_the_rest_and_nothing_twice(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, names, most = 0, set[str](), 10_000
    while last <= most:
        clock = ManualClock()
        directory = tmp_path / f"killed-at-{last}"
        async with copied(template, directory, clock) as database:
            steps = Steps(monkeypatch, last)
            notes = await outlive(database, directory / "spool", clock, steps)
            if not last:  # nobody was killed: so many steps there are
                most = len(steps.taken)
                assert len(list(notes.answered())) == 5
            names.update(steps.taken[-1:])
            try:
                await audit(database, TENANT, notes)
            except AssertionError as error:
                error.add_note(f"killed {steps.taken[-1]}, step {last} of {most}")
                raise
        last += 1
    assert most > 60
    assert {
        "before the write",
        "in the midst of the write",
        "after LedgerService._note",
        "after SpoolReader.read",
    } <= names
