"""Every event counts once in the ledger: whatever is repeated, whoever is replaced, wherever a worker is killed."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.histogram import sum_histograms
from apishield.core.events import Event, Frame, Intake, SpoolPart
from apishield.errors import ProblemError
from apishield.services.ledger import Fenced, LedgerService
from apishield.services.ledger_batch import Batch
from apishield.stores.sql.database import Database
from apishield.stores.sql.failures import unavailable, was_undone_for_another
from tests.support.clock import ManualClock
from tests.support.ledger import SPOOL, TENANT, decision, frames, intake, result, rows, same_everywhere

STREAM = f"spool:{SPOOL:08x}"


class KilledError(Exception):
    """The worker ends here."""


class KilledBeforeCommit(LedgerService):
    """A worker that is killed when all is written and nothing is committed."""

    async def _write(self, connection: AsyncConnection, rows: object, batch: Batch) -> None:
        await super()._write(connection, rows, batch)  # type: ignore[arg-type]
        raise KilledError


async def test_an_intake_that_is_taken_again_is_refused_and_counts_once(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock)
    first = decision(1)
    taken = intake([first, result(first)])
    claim = await ledger.claim(STREAM, "a")
    applied = await ledger.apply(claim, taken)
    assert (applied.events, applied.claim.position) == (2, taken.end)
    with pytest.raises(Fenced):
        await ledger.apply(claim, taken)  # the commit's answer was lost, say
    assert (await same_everywhere(database))["requests"] == 1
    assert (await ledger.claim(STREAM, "a")).position == taken.end
    assert ledger.stats.fenced == 1


async def test_a_worker_killed_before_its_commit_leaves_nothing_and_the_next_counts_all(
    database: Database, clock: ManualClock
) -> None:
    killed, next_one = KilledBeforeCommit(database, clock), LedgerService(database, clock)
    first = decision(1, units={"tokens": 5})
    taken = intake([first, result(first)])
    with pytest.raises(KilledError):
        await killed.apply(await killed.claim(STREAM, "a"), taken)
    assert (await same_everywhere(database))["requests"] == 0
    assert await rows(database, "SELECT count(*) FROM decision_chunks") == [(0,)]
    claim = await next_one.claim(STREAM, "b")
    assert claim.position == 0
    await next_one.apply(claim, taken)
    totals = await same_everywhere(database)
    assert (totals["requests"], totals["results"], totals["cost"]) == (1, 1, 0)


async def test_whoever_was_replaced_is_fenced_even_at_the_right_position(
    database: Database, clock: ManualClock
) -> None:
    old, new = LedgerService(database, clock), LedgerService(database, clock)
    stale = await old.claim(STREAM, "old")
    fresh = await new.claim(STREAM, "new")
    with pytest.raises(Fenced):
        await old.apply(stale, intake([decision(1)]))
    await new.apply(fresh, intake([decision(1)]))
    assert (await same_everywhere(database))["requests"] == 1


async def test_of_two_processes_with_one_claim_one_is_fenced(database: Database, clock: ManualClock) -> None:
    one, other = LedgerService(database, clock), LedgerService(database, clock)
    claim = await one.claim(STREAM, "twin")
    taken = intake([decision(1), decision(2)])
    outcomes = await asyncio.gather(one.apply(claim, taken), other.apply(claim, taken), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Applied", "Fenced"]
    assert (await same_everywhere(database))["requests"] == 2


async def test_frames_that_were_published_twice_count_once(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock)
    stream = "kafka:events:3"
    one, two, three = frames([[decision(1)], [decision(2)], [decision(3)]])

    def message(offset: int, *some: Frame) -> Intake:
        return Intake(stream, offset, offset + 1, [SpoolPart(SPOOL, list(some))])

    claim = await ledger.claim(stream, "a")
    await ledger.apply(claim, message(0, one, two))
    again = await ledger.apply(claim, message(1, one, two, three, three))
    assert (again.events, again.duplicates) == (1, 3)
    other_worker = LedgerService(database, clock)
    claim = await other_worker.claim(stream, "b")
    assert (await other_worker.apply(claim, message(2, three))).events == 0
    assert (await same_everywhere(database))["requests"] == 3
    assert (ledger.stats.duplicates, other_worker.stats.duplicates) == (3, 1)


async def test_a_result_that_is_told_again_counts_once(database: Database, clock: ManualClock) -> None:
    ledger, other_worker = LedgerService(database, clock), LedgerService(database, clock)
    first, second = decision(1), decision(2)
    told = result(first, latency_us=7)
    claim = await ledger.claim(STREAM, "a")
    await ledger.apply(claim, intake([first, second, told, told], [told]))
    await ledger.apply(claim, intake([told, result(second)], start=200))
    elsewhere = await other_worker.claim("spool:000000b2", "b")
    await other_worker.apply(elsewhere, intake([result(first, status=500)], spool=0xB2))
    totals = await same_everywhere(database)
    assert (totals["requests"], totals["results"], totals["status_5xx"], totals["latency_us"]) == (2, 2, 0, 20_007)
    assert (ledger.stats.duplicates, other_worker.stats.duplicates) == (3, 1)


async def test_workers_that_hear_the_same_results_at_once_count_them_once(
    database: Database, clock: ManualClock
) -> None:
    decisions = [decision(sequence) for sequence in range(1, 41)]
    ledger = LedgerService(database, clock)
    await ledger.apply(await ledger.claim(STREAM, "a"), intake(decisions))
    told = [result(one) for one in decisions]
    workers = [LedgerService(database, clock) for _ in range(4)]
    claims = [await worker.claim(f"spool:{number:08x}", "w") for number, worker in enumerate(workers)]
    await asyncio.gather(
        *(
            worker.apply(claim, intake(told[5 * number :], spool=number, stream=claim.stream))
            for number, (worker, claim) in enumerate(zip(workers, claims, strict=True))
        )
    )
    assert (await same_everywhere(database))["results"] == 40


async def test_workers_that_add_to_the_same_series_lose_nothing_and_do_not_deadlock(
    database: Database, clock: ManualClock
) -> None:
    workers = [LedgerService(database, clock) for _ in range(3)]
    claims = [await worker.claim(f"spool:{number:08x}", "w") for number, worker in enumerate(workers)]

    async def take_all(number: int) -> None:
        worker, claim = workers[number], claims[number]
        for turn in range(6):
            made = [
                decision(turn * 100 + n, key_id=f"key_{n}", endpoint=f"/e{n}", country="DE" if n % 2 else "FR")
                for n in range(30)
            ]
            events: list[Event] = [*made, *(result(one, spool=number, latency_us=1_000 * (number + 1)) for one in made)]
            if number % 2:
                events.reverse()
            applied = await worker.apply(claim, intake(events, start=claim.position, spool=number))
            claim = applied.claim

    await asyncio.gather(*(take_all(number) for number in range(3)))
    totals = await same_everywhere(database)
    assert (totals["requests"], totals["results"]) == (540, 540)
    assert totals["latency_us"] == 180 * (1_000 + 2_000 + 3_000)
    assert await counted(database) == 5 * 3 * 540


async def test_a_row_that_is_added_to_for_long_stays_small_and_exact(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock)
    claim = await ledger.claim(STREAM, "a")
    for turn in range(120):
        made = [decision(turn * 8 + n) for n in range(8)]
        told = [result(one, latency_us=100 + 37 * one.sequence) for one in made]
        claim = (await ledger.apply(claim, intake([*made, *told], start=claim.position))).claim
    assert await counted(database) == 5 * 3 * 960
    longest = (await rows(database, "SELECT max(length(latency)) FROM rollup_day"))[0][0]
    assert longest < 3_000


async def counted(database: Database) -> int:
    """How many values the histograms of all rows hold together."""
    found = 0
    for step in ("minute", "hour", "day"):
        blobs = await rows(database, f"SELECT latency FROM rollup_{step} WHERE latency IS NOT NULL")
        found += sum_histograms(blob for (blob,) in blobs).histogram().count
    return found


async def test_a_frame_that_is_none_is_left_out_and_the_next_is_taken(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock)
    good = frames([[decision(1)], [decision(2)]])
    broken = Frame(150, b"\xc1 not an event")
    taken = Intake(STREAM, 0, 200, [SpoolPart(SPOOL, [good[0], broken, good[1]])])
    await ledger.apply(await ledger.claim(STREAM, "a"), taken)
    assert (await same_everywhere(database))["requests"] == 2
    assert ledger.stats.broken_frames == 1


async def test_times_that_can_not_be_are_put_right_and_counted(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock)
    day_us = 86_400_000_000
    events = [decision(1, at_us=0), decision(2, at_us=clock.now_us + day_us), decision(3, at_us=clock.now_us - day_us)]
    await ledger.apply(await ledger.claim(STREAM, "a"), intake([*events, result(events[1])]))
    assert ledger.stats.clamped == 3
    today = clock.now_us // day_us * 86_400
    found = await rows(
        database,
        "SELECT bucket, requests, results FROM rollup_day r JOIN series_sets s ON s.id = r.set_id "
        "WHERE s.dims = 'tenant' AND s.tenant_id = :tenant ORDER BY bucket",
        tenant=TENANT,
    )
    assert found == [(today - 86_400, 1, 0), (today, 2, 1)]


async def test_transactions_that_wait_for_each_other_are_known_from_a_database_that_is_gone(
    postgres_url: str, clock: ManualClock
) -> None:
    database = Database(postgres_url, clock)  # SQLite has one writer: nobody waits there in the middle of a transaction
    await database.migrate()
    async with database.transaction() as work:
        await work.connection.exec_driver_sql("INSERT INTO meta (name, value) VALUES ('a', ''), ('b', '')")
    both = asyncio.Barrier(2)

    async def change(first: str, second: str) -> None:
        async with database.transaction() as work:
            await work.connection.exec_driver_sql("UPDATE meta SET value = 'x' WHERE name = %s", (first,))
            await both.wait()
            await work.connection.exec_driver_sql("UPDATE meta SET value = 'x' WHERE name = %s", (second,))

    outcomes = await asyncio.gather(change("a", "b"), change("b", "a"), return_exceptions=True)
    problems = [outcome for outcome in outcomes if isinstance(outcome, ProblemError)]
    assert len(problems) == 1
    assert was_undone_for_another(problems[0])
    assert not was_undone_for_another(unavailable())
    await database.close()
