"""Events and spools for tests of what becomes of them."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apishield.core.events import PEEK, CountEvent, DecisionEvent, Event, Intake, ResultEvent, SettlementEvent
from apishield.stores.spool import SpoolReader
from apishield.stores.sql.ledger.positions import Claim, Fenced
from tests.support.clock import START_US

SPOOL = 0x0A1B2C3D


def decision(sequence: int, **fields: Any) -> DecisionEvent:
    """A decision of ``ten_a``, admitted unless ``code`` says otherwise."""
    given = {"at_us": START_US, "tenant_id": "ten_a", "code": "ok", "flags": 0, "key_id": "key_a", "method": "GET"}
    return DecisionEvent(sequence, **{**given, "path": "/orders", **fields})


def result(sequence: int, status: int = 200, spool: int = SPOOL) -> ResultEvent:
    return ResultEvent(spool, sequence, START_US // 1000, "ten_a", START_US, status, 1500)


def settlement(sequence: int, units: dict[str, int], *, released: bool = False) -> SettlementEvent:
    return SettlementEvent(SPOOL, sequence, START_US // 1000, "ten_a", START_US, units, released)


def read_all(reader: SpoolReader, position: int = 0) -> tuple[list[Event], int]:
    """All events behind ``position``, and where they end."""
    events: list[Event] = []
    while True:
        part, end = reader.read(position)
        if not part.frames:
            return events, end
        events += [event for frame in part.frames for event in frame.events()]
        position = end


def spooled(root: Path, spool: int = SPOOL) -> list[Event]:
    """All events that lie in a spool."""
    reader = SpoolReader(root, spool)
    try:
        return read_all(reader)[0]
    finally:
        reader.close()


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """As on a disk that is full: the kernel takes no byte of a file beyond ``size``, and may take a part of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def as_after_a_kill(root: Path, spool: int = SPOOL) -> list[Event]:
    """All events that whoever drains a spool would find if its process were killed now; the process goes on."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "spool"
        shutil.copytree(root, copy)  # the lock is the process's, and not the file's
        reader = SpoolReader(copy, spool)
        try:
            assert reader.adopt()
            return read_all(reader)[0]
        finally:
            reader.close()


def requests_by_kind(events: Iterable[Event]) -> Counter[tuple[str, str, str | None]]:
    """How many decisions there were by tenant, code and key: the same with details and without."""
    found: Counter[tuple[str, str, str | None]] = Counter()
    for event in events:
        if isinstance(event, CountEvent):
            found[event.tenant_id, event.code, event.key_id] += event.count
        elif isinstance(event, DecisionEvent) and not event.flags & PEEK:
            found[event.tenant_id, event.code, event.key_id] += 1
    return found


def units_by_kind(events: Iterable[Event]) -> Counter[tuple[str, str, str | None, str]]:
    """What decisions cost in the end, by tenant, code, key and unit: the same with details and without."""
    found: Counter[tuple[str, str, str | None, str]] = Counter()
    decisions: dict[int, tuple[DecisionEvent, dict[str, int]]] = {}
    for event in events:
        if isinstance(event, CountEvent | DecisionEvent):
            units = {"requests": event.units} if isinstance(event.units, int) else dict(event.units)
            if isinstance(event, DecisionEvent):
                if event.flags & PEEK:
                    continue
                decisions[event.sequence] = (event, units)
            for unit, amount in units.items():
                found[event.tenant_id, event.code, event.key_id, unit] += amount
        elif isinstance(event, SettlementEvent) and event.spool == SPOOL and event.sequence in decisions:
            about, units = decisions[event.sequence]
            final = {} if event.released else units | event.units
            for unit in units | final:
                found[about.tenant_id, about.code, about.key_id, unit] += final.get(unit, 0) - units.get(unit, 0)
    return +found


class MemoryLedger:
    """What the ledger promises a drain, in memory, and failing when it is told to: before it took an intake, or after."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.positions: dict[str, tuple[int, int]] = {}
        self.fail_before = self.fail_after = False
        self.fails_at: int | None = None  # the sequence of a decision that it can't take
        self.most_at_once: int | None = None  # events that it can take within its time
        self.tidied = 0

    async def claim(self, stream: str, owner: str) -> Claim:
        self._fail(self.fail_before)
        position, epoch = self.positions.get(stream, (0, 0))
        self.positions[stream] = (position, epoch + 1)
        return Claim(stream, position, epoch + 1)

    async def apply(self, claim: Claim, intake: Intake) -> None:
        self._fail(self.fail_before)
        if self.positions[intake.stream] != (intake.start, claim.epoch):
            raise Fenced(intake.stream)
        events = [event for part in intake.parts for frame in part.frames for event in frame.events()]
        if any(isinstance(event, DecisionEvent) and event.sequence == self.fails_at for event in events):
            raise ValueError(self.fails_at)
        if self.most_at_once is not None and len(events) > self.most_at_once:
            raise ConnectionError("the database takes too long")
        self.events += events
        self.positions[intake.stream] = (intake.end, claim.epoch)
        self._fail(self.fail_after)

    async def settle_pending(self) -> int:
        return 0

    async def keep_house(self) -> None:
        self.tidied += 1

    def _fail(self, fail: bool) -> None:
        if fail:
            raise ConnectionError("the database is away")
