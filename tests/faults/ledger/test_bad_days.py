"""The database is away for long, an answer to a commit is lost, locks do not work, the disk is full: counts stay exact."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from apishield.core.events import HELD, DecisionEvent, Event, Intake, ResultEvent, SettlementEvent
from apishield.errors import ProblemError
from apishield.services.ledger import Applied, Claim, LedgerService
from apishield.stores.spool import Spools, SpoolWriter
from apishield.stores.spool.files import bytes_in
from apishield.stores.sql.database import Database
from apishield.workers.ledger import LedgerWorker
from tests.e2e.test_full_disk import MountDisk, mount_disk
from tests.support.clock import START_US, ManualClock
from tests.support.database import database, database_url
from tests.support.ledger import rows, same_everywhere, units

__all__ = ["database", "database_url", "mount_disk"]

TENANT = "ten_bad_days"
SPOOL = 0xA1
LITTLE_BYTES = 16 * 1024 * 1024  # the least that can be set
PLENTY_BYTES = ALL = 1 << 30


class AwayLedger(LedgerService):
    """The ledger of a database that can be away: before it took an intake, or when it should say that it has."""

    is_away = False
    loses_answers = False

    async def claim(self, stream: str, owner: str) -> Claim:
        """As the service does, when it is there."""
        if self.is_away:
            raise ProblemError("database_unavailable", "It is away.")
        return await super().claim(stream, owner)

    async def apply(self, claim: Claim, intake: Intake) -> Applied:
        """As the service does, when it is there; the answer may be lost."""
        if self.is_away:
            raise ProblemError("database_unavailable", "It is away.")
        applied = await super().apply(claim, intake)
        if self.loses_answers:
            self.loses_answers = False
            raise ProblemError("database_unavailable", "It was there, and its answer was lost.")
        return applied


class Traffic:
    """Events of one process, and what they come to."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._sequence = 0
        self.requests: Counter[tuple[str, str]] = Counter()
        self.cost: Counter[str] = Counter()
        self.results = 0

    def turn(self, decisions: int) -> list[Event]:
        """The decisions of a turn, with results of some, and what some cost in the end."""
        events: list[Event] = []
        for _ in range(decisions):
            self._sequence += 1
            events += self._one(self._sequence)
        return events

    def _one(self, number: int) -> Iterator[Event]:
        code = "ok" if number % 5 else "rate_limited"
        holds = number % 7 == 0 and code == "ok"
        key_id = f"key_{self._dice.randrange(6)}"
        cost = {"requests": 1, "tokens": 90} if holds else self._dice.randint(1, 3)
        self.requests[key_id, code] += 1
        yield DecisionEvent(
            number, START_US, TENANT, code, HELD if holds else 0, key_id, method="GET", path=f"/orders/{number}",
            address="203.0.113.7", units=cost, message="m" * 2_000, user_agent="x" * 100,
        )  # fmt: skip
        place = (SPOOL, number, START_US // 1000, TENANT, START_US)
        final = {"requests": 1, "tokens": 40} if holds else {"requests": cost} if isinstance(cost, int) else cost
        if holds:
            yield SettlementEvent(*place, {"tokens": 40})
        if code == "ok":
            self.cost.update(final)
        if number % 2:
            self.results += 1
            yield ResultEvent(*place, 200, 1000, 10)


async def assert_exact(database: Database, traffic: Traffic) -> None:
    """All sums are those of the traffic, in every grouping set and length of time."""
    totals = await same_everywhere(database, TENANT)
    assert totals["requests"] == sum(traffic.requests.values())
    assert totals["results"] == traffic.results
    for step in ("minute", "hour", "day"):
        assert await units(database, step, tenant_id=TENANT) == traffic.cost
    found = await rows(
        database,
        "SELECT n.key_id, n.code, sum(r.requests) FROM rollup_day r JOIN series n ON n.id = r.series_id "
        "JOIN series_sets s ON s.id = r.set_id WHERE s.dims = 'key' AND s.tenant_id = :tenant GROUP BY n.key_id, n.code",
        tenant=TENANT,
    )
    assert {(key_id, code): int(count) for key_id, code, count in found} == traffic.requests


async def test_counts_are_exact_after_a_long_outage_with_little_room_for_details(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    traffic = Traffic(1)
    ledger = AwayLedger(database, clock)
    writer = SpoolWriter(tmp_path, SPOOL, clock, max_bytes=LITTLE_BYTES, detailed_refusals=ALL)
    worker = LedgerWorker(tmp_path, ledger, clock, owner="w", max_bytes=LITTLE_BYTES)
    for event in traffic.turn(100):
        writer.append(event)
    writer.flush()
    await worker.drain.catch_up()
    ledger.is_away = True
    for turn in range(60):  # about three times of what there is room for
        for event in traffic.turn(400):
            writer.append(event)
        writer.flush()
        if turn % 2:
            await writer.tick()
            with pytest.raises(ProblemError):
                await worker.drain.step()
    assert bytes_in(tmp_path) <= LITTLE_BYTES * 17 // 16
    assert worker.drain.spools.stats.folded_events
    ledger.is_away = False
    await writer.tick()
    await worker.drain.catch_up()
    writer.close()
    await worker.drain.catch_up()
    worker.drain.close()
    assert ledger.stats.events < sum(traffic.requests.values()), "details were given up"
    await assert_exact(database, traffic)


async def test_an_answer_to_a_commit_that_is_lost_counts_nothing_twice(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    traffic = Traffic(2)
    ledger = AwayLedger(database, clock)
    writer = SpoolWriter(tmp_path, SPOOL, clock)
    worker = LedgerWorker(tmp_path, ledger, clock, owner="w", max_bytes=PLENTY_BYTES)
    for _ in range(5):
        for event in traffic.turn(20):
            writer.append(event)
        writer.flush()
        ledger.loses_answers = True
        with pytest.raises(ProblemError):
            await worker.drain.step()
    await worker.drain.catch_up()
    worker.drain.close()
    writer.close()
    await assert_exact(database, traffic)


async def test_two_workers_on_a_file_system_without_locks_count_nothing_twice(
    database: Database, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spools, "hold", lambda _self: True)
    traffic = Traffic(3)
    writer = SpoolWriter(tmp_path, SPOOL, clock)
    workers = [
        LedgerWorker(tmp_path, LedgerService(database, clock), clock, owner=f"w{number}", max_bytes=PLENTY_BYTES)
        for number in range(2)
    ]
    for _ in range(12):
        for event in traffic.turn(10):
            writer.append(event)
        writer.flush()
        await asyncio.gather(*(worker.step() for worker in workers))
    await workers[0].drain.catch_up()
    for worker in workers:
        worker.drain.close()
    writer.close()
    assert sum(worker.drain.stats.fenced for worker in workers)
    await assert_exact(database, traffic)


async def test_counts_are_exact_after_the_disk_was_full(
    database: Database, clock: ManualClock, tmp_path: Path, mount_disk: MountDisk
) -> None:
    disk = mount_disk("2m")
    filler = disk / "filler"
    filler.write_bytes(b"x" * 1_500_000)
    traffic = Traffic(4)
    writer = SpoolWriter(disk / "spool", SPOOL, clock, detailed_refusals=ALL)
    worker = LedgerWorker(disk / "spool", LedgerService(database, clock), clock, owner="w", max_bytes=PLENTY_BYTES)
    while writer.stats.failed_writes < 20:
        for event in traffic.turn(100):
            writer.append(event)
        writer.flush()
    await writer.tick()  # no room for counts either
    await worker.drain.catch_up()
    filler.unlink()
    for event in traffic.turn(50):
        writer.append(event)
    writer.flush()
    await writer.tick()
    await worker.drain.catch_up()
    worker.drain.close()
    writer.close()
    assert writer.stats.folded_events
    await assert_exact(database, traffic)
