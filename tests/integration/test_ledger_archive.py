"""Decisions can be read back: one by its place, all of a period in order, and nobody else's."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from apishield.core.events import HELD, EventRef
from apishield.services.ledger import LedgerService
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger import chunks, scan, statements
from apishield.stores.sql.ledger.archive import DecisionArchive
from apishield.stores.sql.ledger.stored import StoredDecision
from apishield.stores.sql.ledger.turns import Turns
from tests.support.clock import SECOND_US, ManualClock
from tests.support.ledger import SPOOL, TENANT, decision, intake, result, rows, settlement

OTHER = 0xB2


async def take(ledger: LedgerService, *turns: list[object], spool: int = SPOOL) -> None:
    claim = await ledger.claim(f"spool:{spool:08x}", "test")
    await ledger.apply(claim, intake(*turns, start=claim.position, spool=spool))  # type: ignore[arg-type]


async def scanned(archive: DecisionArchive, from_us: int, to_us: int, **options: bool) -> list[StoredDecision]:
    return [stored async for page in archive.scan(TENANT, from_us, to_us, **options) for stored in page]


async def test_a_decision_is_found_by_its_place_with_all_that_became_known_of_it(
    database: Database, clock: ManualClock
) -> None:
    ledger, archive = LedgerService(database, clock), DecisionArchive(database)
    made = decision(7, units={"tokens": 9}, message="why", user_agent="curl/8", attributes={"route": "a"})
    await take(ledger, [decision(6), made, decision(8)])
    ref = EventRef(SPOOL, 7)
    assert await archive.find(TENANT, ref, made.at_us) == StoredDecision(SPOOL, made)
    told, final = result(made), settlement(made, {"tokens": 4})
    await take(ledger, [told, final], spool=OTHER)
    assert await archive.find(TENANT, ref, made.at_us) == StoredDecision(SPOOL, made, told, final)
    assert await archive.find(TENANT, EventRef(SPOOL, 9), made.at_us) is None
    assert await archive.find(TENANT, EventRef(OTHER, 7), made.at_us) is None


async def test_nobody_finds_or_scans_another_tenants_decision(database: Database, clock: ManualClock) -> None:
    ledger, archive = LedgerService(database, clock), DecisionArchive(database)
    mine, theirs = decision(1), decision(2, tenant_id="ten_other")
    await take(ledger, [mine, theirs])
    assert await archive.find(TENANT, EventRef(SPOOL, 2), theirs.at_us) is None
    assert [one.event for one in await scanned(archive, 0, clock.now_us + 1)] == [mine]


async def test_a_receipt_is_found_for_the_tenant_whose_id_it_is(database: Database, clock: ManualClock) -> None:
    ledger, archive = LedgerService(database, clock), DecisionArchive(database)
    theirs = decision(2, tenant_id="ten_other")
    await take(ledger, [decision(1), theirs, decision(3)])
    ref = EventRef(SPOOL, 2)
    found = await archive.find_public(ref, theirs.at_us, lambda tenant: tenant == "ten_other")
    assert found is not None
    assert found.event == theirs
    assert await archive.find_public(ref, theirs.at_us, lambda tenant: tenant == TENANT) is None  # a forged id
    assert await archive.find_public(ref, theirs.at_us, lambda _: False) is None


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_scan_tells_the_decisions_of_a_period_in_the_order_of_time(
    database: Database, clock: ManualClock, newest_first: bool
) -> None:
    ledger, archive = LedgerService(database, clock), DecisionArchive(database)
    start_us = clock.now_us - 9_000 * SECOND_US
    every = []
    for turn in range(30):  # two nodes whose chunks overlap, over more than two hours
        for spool in (SPOOL, OTHER):
            made = [
                decision(turn * 10 + n, at_us=start_us + (turn * 300 + n * 97 + (spool == OTHER) * 13) * SECOND_US)
                for n in range(1, 4)
            ]
            every += [(one.at_us, spool, one) for one in made]
            await take(ledger, [*made, result(made[0], spool=spool)], spool=spool)
    from_us, to_us = start_us + 1_000 * SECOND_US, start_us + 8_000 * SECOND_US
    expected = sorted(
        (one for one in every if from_us <= one[0] < to_us), key=lambda one: one[:2], reverse=newest_first
    )
    found = await scanned(archive, from_us, to_us, newest_first=newest_first)
    assert [(one.event.at_us, one.spool, one.event) for one in found] == expected
    assert all((one.result is not None) == (one.event.sequence % 10 == 1) for one in found)


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_scan_without_results_tells_what_was_settled_and_nothing_else(
    database: Database, clock: ManualClock, newest_first: bool
) -> None:
    ledger, archive = LedgerService(database, clock), DecisionArchive(database)
    made = [decision(n, at_us=clock.now_us - n, flags=HELD if n % 50 == 7 else 0) for n in range(1, 1_500)]
    for start in range(0, len(made), 30):  # in many small chunks, some without anything held
        await take(ledger, list(made[start : start + 30]))
    final = {one.sequence: settlement(one, {"tokens": one.sequence}) for one in made if one.flags & HELD}
    await take(ledger, [result(one) for one in made], [*final.values()])
    whole = await scanned(archive, 0, clock.now_us, newest_first=newest_first)
    assert [one.settlement for one in whole] == [final.get(one.event.sequence) for one in whole]
    assert all(one.result is not None for one in whole)
    bare = await scanned(archive, 0, clock.now_us, newest_first=newest_first, results=False)
    assert [(one.event, one.settlement) for one in bare] == [(one.event, one.settlement) for one in whole]


async def test_who_stops_a_scan_early_leaves_nothing_running(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, archive = LedgerService(database, clock), DecisionArchive(database)
    for start in range(0, 400, 10):
        made = [decision(n + 1, at_us=clock.now_us - 1_000 + n) for n in range(start, start + 10)]
        await take(ledger, list(made))
    pages_read = 0

    async def select_rows(*question: Any) -> Any:
        nonlocal pages_read
        pages_read += 1
        if pages_read == 2:
            await asyncio.Event().wait()  # never comes
        return await statements.select_rows(*question)

    monkeypatch.setattr(scan, "select_rows", select_rows)
    before = asyncio.all_tasks()
    async with aclosing(archive.scan(TENANT, 0, clock.now_us)) as pages:
        async for some in pages:
            assert some
            assert pages_read == 2  # the next page is on its way while this one is worked on
            break
    assert asyncio.all_tasks() == before
    assert len(await scanned(archive, 0, clock.now_us)) == 400  # and the database can still be asked


async def test_a_scan_holds_no_more_than_what_overlaps(database: Database, clock: ManualClock) -> None:
    ledger, archive = LedgerService(database, clock), DecisionArchive(database)
    start_us = clock.now_us - 4_000 * SECOND_US
    made = [decision(n, at_us=start_us + n * 100_000) for n in range(1, 30_001)]
    await take(ledger, list(made[:15_000]))
    await take(ledger, list(made[15_000:]))
    sizes = [len(page) async for page in archive.scan(TENANT, start_us, clock.now_us)]
    assert sum(sizes) == 30_000
    assert max(sizes) <= 9 * 1_024


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_scan_holds_no_more_where_traffic_rises_or_falls(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, newest_first: bool
) -> None:
    """Chunks of one event each, then full ones: pages grow as long as chunks are small."""
    ledger, archive = LedgerService(database, clock), DecisionArchive(database)
    start_us = clock.now_us - 3_000 * SECOND_US
    made = [decision(n, at_us=start_us + n * 1_000) for n in range(1, 30_041)]
    quiet, loud = made[:20], made[20:-20]
    turns = [[one] for one in quiet], [loud[:15_000], loud[15_000:]], [[one] for one in made[-20:]]
    for some in (turn for part in turns for turn in part):
        await take(ledger, list(some))
    unpack, opened, held = chunks.unpack, 0, [0]

    def unpack_counted(payload: bytes) -> Any:
        nonlocal opened
        events = unpack(payload)
        opened += len(events)
        return events

    monkeypatch.setattr(chunks, "unpack", unpack_counted)
    told: list[int] = []
    async for page in archive.scan(TENANT, start_us, clock.now_us, newest_first=newest_first):
        held.append(opened - len(told))
        told += [one.event.sequence for one in page]
    assert told == sorted((one.sequence for one in made), reverse=newest_first)
    assert max(held) <= 20 * 1_024


async def test_what_is_older_than_it_is_kept_is_not_shown(database: Database, clock: ManualClock) -> None:
    ledger, archive = LedgerService(database, clock), DecisionArchive(database, replay_days=1)
    made = decision(1, at_us=clock.now_us)
    await take(ledger, [made])
    clock.advance(86_401)
    assert await archive.find(TENANT, EventRef(SPOOL, 1), made.at_us) is None
    assert await scanned(archive, 0, clock.now_us) == []


async def test_with_no_days_to_keep_nothing_of_a_caller_is_written_and_results_still_count(
    database: Database, clock: ManualClock
) -> None:
    ledger = LedgerService(database, clock, replay_days=0)
    made = decision(1, endpoint=None, flags=0, path="/users/4711", user_agent="curl/8", message="m")
    await take(ledger, [made])
    await take(LedgerService(database, clock, replay_days=0), [result(made)], spool=OTHER)
    found = await rows(database, "SELECT requests, results FROM rollup_day r JOIN series s ON s.id = r.series_id")
    assert found == [(1, 1)] * 5
    assert await rows(database, "SELECT count(*) FROM address_hour") == [(0,)]
    kept = await DecisionArchive(database, replay_days=1).find(TENANT, EventRef(SPOOL, 1), made.at_us)
    assert kept is not None
    assert (kept.event.address, kept.event.user_agent, kept.event.message) == (None, None, "")
    assert kept.event.path == "/users/{id}"
    assert await DecisionArchive(database, replay_days=0).find(TENANT, EventRef(SPOOL, 1), made.at_us) is None


async def test_however_many_read_no_check_waits_for_more_than_one_chunk(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = LedgerService(database, clock)
    archive = DecisionArchive(database, turns=Turns(lambda _: asyncio.sleep(0)))
    made = [decision(n, at_us=clock.now_us - n) for n in range(1, 3_000)]
    await take(ledger, list(made))
    turn = 0
    opened_in: list[int] = []
    whole = chunks.unpack

    def unpack(payload: bytes) -> Any:
        opened_in.append(turn)
        return whole(payload)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(chunks, "unpack", unpack)
    counting = asyncio.create_task(count_turns())
    scans = [scanned(archive, 0, clock.now_us, newest_first=bool(n % 2)) for n in range(6)]
    finds = [archive.find(TENANT, EventRef(SPOOL, n), made[n - 1].at_us) for n in (1, 2_000)]
    pages, found = await asyncio.gather(asyncio.gather(*scans), asyncio.gather(*finds))
    counting.cancel()
    assert [len(page) for page in pages] == [2_999] * 6
    assert [one is not None and one.event for one in found] == [made[0], made[1_999]]
    assert len(opened_in) >= 6 * 3 + 2
    assert len(set(opened_in)) == len(opened_in)


@pytest.mark.parametrize(
    ("turns_seconds", "pauses_seconds"),
    [
        ([0.004, 0.010], [0.002, 0.005]),
        # A loop sleeps for whole milliseconds: a replay of many small chunks slept nearly all of the time.
        ([0.0008, 0.0008, 0.0008, 0.0018], [0, 0, 0.001, 0.001]),
    ],
)
async def test_nobody_works_for_half_as_long_as_turns_took_together(
    monkeypatch: pytest.MonkeyPatch, turns_seconds: list[float], pauses_seconds: list[float]
) -> None:
    paused: list[float] = []
    at_seconds = iter([at for number, spent in enumerate(turns_seconds) for at in (number, number + spent)])

    async def pause(seconds: float) -> None:
        paused.append(round(seconds, 6))

    monkeypatch.setattr("apishield.stores.sql.ledger.turns.perf_counter", lambda: next(at_seconds))
    turns = Turns(pause)
    for _ in turns_seconds:
        async with turns.turn():
            pass
    assert paused == pauses_seconds
