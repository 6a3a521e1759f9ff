"""What becomes known of a decision later counts with it: in its minute, at its series, however late and wherever it arrives."""

from __future__ import annotations

import pytest

from apishield.core.events import PEEK, CountEvent
from apishield.services import ledger as ledger_module
from apishield.services.ledger import LedgerService
from apishield.stores.sql.database import Database
from tests.support.clock import SECOND_US, ManualClock
from tests.support.ledger import SPOOL, TENANT, decision, intake, result, rows, same_everywhere, settlement, units

STREAM = f"spool:{SPOOL:08x}"
ELSEWHERE = 0xB2
HOUR_US = 3600 * SECOND_US


async def take(ledger: LedgerService, *turns: list[object], spool: int = SPOOL) -> None:
    """Takes some turns, as the next of the spool."""
    claim = await ledger.claim(f"spool:{spool:08x}", "test")
    await ledger.apply(claim, intake(*turns, start=claim.position, spool=spool))  # type: ignore[arg-type]


async def test_a_late_result_counts_in_the_minute_of_its_decision(database: Database, clock: ManualClock) -> None:
    made = decision(1, at_us=clock.now_us)
    await take(LedgerService(database, clock), [made])
    clock.advance(5 * 3600)
    await take(LedgerService(database, clock), [result(made, after_us=5 * HOUR_US)], spool=ELSEWHERE)
    assert (await same_everywhere(database))["results"] == 1
    minutes = await rows(database, "SELECT DISTINCT bucket, requests, results FROM rollup_minute")
    assert minutes == [(made.at_us // SECOND_US // 60 * 60, 1, 1)]
    assert await rows(database, "SELECT count(*) FROM series") == [(5,)]


async def test_a_result_that_comes_before_its_decision_waits_for_it(database: Database, clock: ManualClock) -> None:
    early, later, third = (LedgerService(database, clock) for _ in range(3))
    made = decision(1)
    await take(early, [result(made), settlement(made, {"requests": 5})], spool=ELSEWHERE)
    assert (await same_everywhere(database))["results"] == 0
    assert early.stats.pending == 2
    await take(later, [made])
    assert await early.settle_pending() == 0  # nothing is due yet
    clock.advance(1)
    assert await third.settle_pending() == 2
    clock.advance(700)
    assert await early.settle_pending() == 0
    totals = await same_everywhere(database)
    assert (totals["requests"], totals["results"], totals["cost"]) == (1, 1, 5)
    await take(later, [result(made)], spool=0xC3)
    assert (await same_everywhere(database))["results"] == 1  # it had been taken while it waited


async def test_a_result_whose_decision_never_comes_is_dropped_after_a_day(
    database: Database, clock: ManualClock
) -> None:
    ledger = LedgerService(database, clock)
    await take(ledger, [result(decision(1))], spool=ELSEWHERE)
    for _ in range(30):
        clock.advance(3600)
        assert await ledger.settle_pending() == 0
    assert await rows(database, "SELECT count(*) FROM ledger_pending") == [(0,)]
    assert ledger.stats.late_dropped == 1


async def test_a_result_told_over_a_day_late_is_dropped_and_counted(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock)
    made = decision(1, at_us=clock.now_us)
    await take(ledger, [made])
    clock.advance(25 * 3600)
    await take(ledger, [result(made, after_us=25 * HOUR_US)])
    assert (await same_everywhere(database))["results"] == 0
    assert ledger.stats.late_dropped == 1


async def test_nobody_waits_without_bound(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PENDING_PER_TENANT", 10)
    ledger = LedgerService(database, clock)
    await take(ledger, [result(decision(sequence)) for sequence in range(1, 16)], spool=ELSEWHERE)
    await take(ledger, [result(decision(99, tenant_id="ten_other"))], spool=ELSEWHERE)
    assert (ledger.stats.pending, ledger.stats.pending_dropped) == (11, 5)


async def test_a_result_of_another_tenant_never_joins(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock)
    made = decision(1)
    await take(ledger, [made, result(made, tenant_id="ten_other", sequence=1)])
    clock.advance(1)
    assert await ledger.settle_pending() == 0
    assert (await same_everywhere(database))["results"] == 0


async def test_peeks_and_decisions_that_were_only_counted_are_not_joined(
    database: Database, clock: ManualClock
) -> None:
    ledger = LedgerService(database, clock)
    peek = decision(1, flags=PEEK)
    folded = CountEvent(clock.now_us, TENANT, "ok", 0, 7, units=9, results={200: 3})
    await take(ledger, [peek, folded, result(peek), settlement(peek, {"requests": 9}), result(decision(2))])
    totals = await same_everywhere(database)
    assert (totals["requests"], totals["cost"], totals["results"]) == (7, 9, 3)
    assert ledger.stats.pending == 1


async def test_a_settlement_moves_the_cost_by_exactly_the_difference(database: Database, clock: ManualClock) -> None:
    made = decision(1, units={"requests": 1, "tokens": 900})
    here, elsewhere = LedgerService(database, clock), LedgerService(database, clock)
    await take(here, [made])
    await take(elsewhere, [settlement(made, {"tokens": 312})], spool=ELSEWHERE)
    assert await units(database) == {"requests": 1, "tokens": 312}
    # Told once by construction; if ever again, then what counts now is what it is compared with.
    await take(LedgerService(database, clock), [settlement(made, {"tokens": 1_000, "images": 2})])
    for step in ("minute", "hour", "day"):
        for dims in ("tenant", "key", "endpoint", "country", "full"):
            assert await units(database, step, dims) == {"requests": 1, "tokens": 1_000, "images": 2}


async def test_a_release_gives_back_all_and_the_request_stays_counted(database: Database, clock: ManualClock) -> None:
    made = decision(1, units={"requests": 3, "tokens": 900})
    await take(LedgerService(database, clock), [made])
    await take(LedgerService(database, clock), [settlement(made, {}, released=True)], spool=ELSEWHERE)
    assert await units(database) == {"requests": 0}
    assert (await same_everywhere(database))["requests"] == 1


async def test_results_find_their_decision_among_many_chunks(database: Database, clock: ManualClock) -> None:
    ledger = LedgerService(database, clock)
    made = [decision(sequence * 97, at_us=clock.now_us + sequence * 30 * SECOND_US) for sequence in range(1, 400)]
    for start in range(0, len(made), 40):
        await take(ledger, list(made[start : start + 40]))
    late = [result(one) for one in reversed(made)]
    await take(LedgerService(database, clock), [*late], spool=ELSEWHERE)
    totals = await same_everywhere(database)
    assert (totals["results"], totals["requests"]) == (399, 399)
    assert await rows(database, "SELECT count(*) FROM rollup_minute WHERE requests = results") == await rows(
        database, "SELECT count(*) FROM rollup_minute"
    )
