"""The ledger stays small: whatever callers make up, and however long it runs."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from apishield.analytics.periods import Segment
from apishield.analytics.rollup import Dims
from apishield.analytics.steps import Step
from apishield.core.events import DecisionEvent
from apishield.core.records import Environment
from apishield.services import ledger_names
from apishield.services.ledger import LedgerService
from apishield.services.ledger_batch import RecentDecisions
from apishield.stores.sql.analytics.plan import Plan
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger import addresses
from apishield.stores.sql.repositories.ledger_sums import LedgerSumsRepository
from tests.support.clock import SECOND_US, ManualClock
from tests.support.ledger import SPOOL, TENANT, decision, intake, result, rows, same_everywhere, sums

DAY_S = 86_400


async def take(ledger: LedgerService, *events: Any) -> None:
    claim = await ledger.claim(f"spool:{SPOOL:08x}", "test")
    await ledger.apply(claim, intake(list(events), start=claim.position))


async def endpoints(database: Database) -> dict[str, int]:
    found = await rows(
        database,
        "SELECT s.endpoint, sum(r.requests) FROM rollup_day r JOIN series s ON s.id = r.series_id "
        "JOIN series_sets ss ON ss.id = s.set_id WHERE ss.dims = 'endpoint' GROUP BY s.endpoint",
    )
    return {endpoint: int(requests) for endpoint, requests in found}


async def test_made_up_paths_count_as_other_beyond_the_ceiling_and_the_catalogue_always_by_name(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_names, "ENDPOINTS_PER_TENANT", 3)
    made_up = [decision(n, flags=0, endpoint=None, path=f"/word{'abcdefgh'[n]}") for n in range(8)]
    await take(LedgerService(database, clock), *made_up[:5])
    next_one = LedgerService(database, clock)  # knows from the tables what has a name already
    await take(next_one, *made_up, decision(9, endpoint="/catalogued"))
    found = await endpoints(database)
    assert found == {"/worda": 2, "/wordb": 2, "/wordc": 2, "(other)": 7, "/catalogued": 1}
    assert (await same_everywhere(database))["requests"] == 14
    assert next_one.stats.other_series > 0


async def test_strangers_who_are_refused_claim_no_endpoint_and_each_day_has_room_again(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_names, "ENDPOINTS_PER_TENANT", 2)
    ledger = LedgerService(database, clock)

    def made_up(number: int, path: str, code: str = "ok") -> DecisionEvent:
        return decision(number, flags=0, endpoint=None, path=path, code=code, at_us=clock.now_us)

    strangers = [made_up(n, f"/word{'abcdefgh'[n]}", "key_malformed") for n in range(8)]
    await take(ledger, *[msgspec.structs.replace(event, key_id=None) for event in strangers])
    await take(ledger, made_up(10, "/orders"), made_up(11, "/orders", "rate_limited"), made_up(12, "/teas"))
    await take(ledger, made_up(13, "/late"))
    assert await endpoints(database) == {"(other)": 9, "/orders": 2, "/teas": 1}
    clock.advance(86_400)
    await take(LedgerService(database, clock), made_up(20, "/late"))
    await take(ledger, made_up(21, "/late"))
    assert (await endpoints(database))["/late"] == 2


async def test_units_beyond_the_ceiling_count_as_other_and_those_that_have_a_name_keep_it(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_names, "UNITS_PER_TENANT", 2)
    await take(LedgerService(database, clock), decision(1, units={"a": 1}), decision(2, units={"b": 2}))
    next_one = LedgerService(database, clock)  # knows from the tables what has a name already
    await take(next_one, decision(3, units={"a": 10, "c": 20, "d": 30}), decision(4, units={"b\0": 5}))
    found = await rows(
        database,
        "SELECT unit, sum(u.cost) FROM rollup_units u JOIN series_sets s ON s.id = u.set_id "
        "WHERE s.dims = 'tenant' AND step = 'day' GROUP BY unit ORDER BY unit",
    )
    assert [(unit, int(cost)) for unit, cost in found] == [("(other)", 55), ("a", 11), ("b", 2)]


async def test_the_most_detailed_series_of_an_hour_are_bounded_and_all_others_stay_exact(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_names, "SERIES_PER_HOUR", 10)
    first = [decision(n, key_id=f"key_{n:02d}") for n in range(8)]
    await take(LedgerService(database, clock), *first)
    second = [decision(n + 100, key_id=f"key_{n:02d}") for n in range(20)]
    await take(LedgerService(database, clock), *second, *(result(one) for one in second))
    totals = await same_everywhere(database)
    assert (totals["requests"], totals["results"]) == (28, 20)
    count = (
        "SELECT count(*) FROM rollup_hour r JOIN series_sets s ON s.id = r.set_id WHERE s.dims = '{}' AND r.bucket = {}"
    )
    hour_s = clock.now_us // SECOND_US // 3600 * 3600
    assert await rows(database, count.format("full", hour_s)) == [(11,)]
    assert await rows(database, count.format("key", hour_s)) == [(20,)]
    clock.advance(3600)  # the next hour has room again
    await take(LedgerService(database, clock), decision(900, at_us=clock.now_us, key_id="key_19"))
    assert await rows(
        database,
        "SELECT s.key_id FROM rollup_hour r JOIN series s ON s.id = r.series_id JOIN series_sets ss ON ss.id = s.set_id "
        f"WHERE ss.dims = 'full' AND r.bucket = {hour_s + 3600}",
    ) == [("key_19",)]


async def test_the_busiest_addresses_keep_their_name_and_no_request_is_lost(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "OF_AN_INTAKE", 5)
    monkeypatch.setattr(addresses, "OF_AN_HOUR", 3)
    ledger = LedgerService(database, clock)
    sequence = iter(range(1, 10_000))
    for node in range(2):
        events = [
            decision(next(sequence), address=f"203.0.113.{node * 100 + n}", code="ok" if n % 2 else "rate_limited")
            for n in range(10)
            for _ in range(n + 1)
        ]
        await take(ledger, *events)
    found = dict(await rows(database, "SELECT address, requests FROM address_hour"))
    assert len(found) == 11
    assert sum(found.values()) == 110
    clock.advance(2 * 3600)
    await ledger.keep_house()
    kept = await rows(database, "SELECT address, requests, refused FROM address_hour ORDER BY requests DESC, address")
    assert [row[0] for row in kept] == ["", "203.0.113.109", "203.0.113.9", "203.0.113.108"]
    assert sum(row[1] for row in kept) == 110
    assert sum(row[2] for row in kept) == 50


async def test_what_is_older_than_it_is_kept_is_forgotten_and_days_stay(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock, replay_days=3)
    made = decision(1, at_us=clock.now_us, units={"requests": 1, "tokens": 5})
    await take(ledger, made, result(made))
    tables = ["rollup_minute", "rollup_hour", "rollup_day", "decision_chunks", "address_hour", "ledger_results"]
    kept: dict[float, list[str]] = {}
    for days in (0.5, 2.5, 3.5, 7.5, 90.5, 150):
        clock.now_us = made.at_us + round(days * DAY_S) * SECOND_US
        await ledger.keep_house()
        kept[days] = [table for table in tables if (await rows(database, f"SELECT count(*) FROM {table}"))[0][0]]
    assert kept[0.5] == tables
    assert kept[2.5] == tables[:-1]
    assert kept[3.5] == ["rollup_minute", "rollup_hour", "rollup_day"]
    assert kept[7.5] == ["rollup_hour", "rollup_day"]
    assert kept[90.5] == kept[150] == ["rollup_day"]
    assert await rows(database, "SELECT step, sum(cost) FROM rollup_units GROUP BY step") == [("day", 25)]
    assert (await ledger.claim(f"spool:{SPOOL:08x}", "later")).position == 100


async def test_several_workers_may_keep_house_at_once(database: Database, clock: ManualClock) -> None:
    workers = [LedgerService(database, clock) for _ in range(3)]
    events = [decision(n, at_us=clock.now_us + n * 20 * SECOND_US, key_id=f"key_{n}") for n in range(100)]
    await take(workers[0], *events)
    clock.advance(8 * DAY_S)
    await asyncio.gather(*(worker.keep_house() for worker in workers))
    assert await rows(database, "SELECT count(*) FROM rollup_minute") == [(0,)]
    assert await rows(database, "SELECT count(*) FROM decision_chunks") == [(0,)]
    assert (await sums(database, step="hour"))["requests"] == (await sums(database, step="day"))["requests"] == 100


def test_the_memory_of_recent_decisions_is_bounded() -> None:
    recent = RecentDecisions(at_least=1_000)
    for start in range(0, 50_000, 100):
        recent.add({(SPOOL, n): decision(n) for n in range(start, start + 100)})
        assert len(recent) <= 2_100
    for sequence in range(49_000, 50_000):
        assert recent.get((SPOOL, sequence)) is not None


async def test_texts_that_no_index_holds_do_not_stop_the_ledger(database: Database, clock: ManualClock) -> None:
    odd = decision(1, key_id="k\0" * 3_000, endpoint="/" + "x" * 5_000, customer_id="ü" * 2_000)
    await take(LedgerService(database, clock), odd, decision(2, tenant_id=TENANT, key_id="key_'\"\\{},NULL"))
    assert (await same_everywhere(database))["requests"] == 2


async def test_sums_of_what_clients_make_up_stop_growing_instead_of_stopping_the_ledger(
    database: Database, clock: ManualClock
) -> None:
    ledger = LedgerService(database, clock)
    made = [decision(n, units={"requests": 10**9, "tokens": 10**9}) for n in range(40)]
    await take(ledger, *made, *(result(one, bytes=2**62, latency_us=10**18) for one in made))
    async with database.transaction() as work:
        for table, column in (("rollup_day", "bytes"), ("rollup_day", "latency_us"), ("rollup_units", "cost")):
            await work.connection.exec_driver_sql(f"UPDATE {table} SET {column} = {2**63 - 1}")
    made = [decision(n + 100, units={"requests": 10**9, "tokens": 10**9}) for n in range(40)]
    await take(ledger, *made, *(result(one, bytes=2**62, latency_us=10**18) for one in made))
    assert await rows(database, "SELECT DISTINCT requests, bytes, latency_us FROM rollup_day") == [
        (80, 2**63 - 1, 2**63 - 1)
    ]
    assert await rows(database, "SELECT DISTINCT requests, cost FROM rollup_hour") == [(80, 80 * 10**9)]


async def test_sums_that_leave_64_bits_are_told_and_stop_nobody(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock)
    made = [decision(number, key_id=f"key_{number}") for number in range(4)]
    await take(ledger, *made, *(result(one) for one in made))
    async with database.transaction() as work:
        await work.connection.exec_driver_sql(f"UPDATE rollup_day SET bytes = {2**62}")
    async with database.read() as work:
        sums = await LedgerSumsRepository(work.connection).by_set(Step.DAY, 0)
        reader = RollupReader(work.connection, made[0].tenant_id, Environment.LIVE)
        day_s = clock.now_us // SECOND_US // DAY_S * DAY_S
        found = await reader.sums(Plan(Dims.KEY, [Segment(Step.DAY, day_s, day_s + DAY_S)]))
    assert max(of_set.sums[2] for of_set in sums) == 2**64
    assert found[0][1].bytes == 2**64
