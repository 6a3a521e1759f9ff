"""A store that is back is charged what was admitted without it and still counts; nobody gains by its coming and going."""

from __future__ import annotations

from collections.abc import Sequence

from apishield.core.model import Counter, Quota, SlidingWindow, TokenBucket, Verdict
from apishield.core.ports import Hold
from apishield.errors import NoAnswer
from apishield.stores.failover import FailoverStore
from tests.support.clock import ManualClock
from tests.support.failing_store import MINUTE_US, Ledger, Primary, admitted, ask, counter, no_pauses, primary, turns

__all__ = ["no_pauses", "primary"]


async def test_it_heals_by_itself_and_charges_the_store_what_was_admitted_without_it(
    primary: Primary, clock: ManualClock
) -> None:
    store = FailoverStore(primary, clock, Ledger(0))
    subjects = [counter(SlidingWindow(100, MINUTE_US)), counter(TokenBucket(100, MINUTE_US, 100)), counter(Quota(100))]
    await ask(store, *subjects, cost=10)
    primary.is_gone = True
    assert await admitted(store, *subjects, checks=20) == 20
    primary.is_gone = False
    await turns()
    assert not store.is_degraded
    verdict = await ask(store, *subjects, cost=0)
    assert not verdict.degraded
    assert [outcome.remaining for outcome in verdict.outcomes] == [70, 70, 70]
    assert (store.stats.times_opened, store.stats.brought_back) == (1, 3)
    await store.close()


async def test_what_no_longer_counts_is_not_charged_on_healing(primary: Primary, clock: ManualClock) -> None:
    store = FailoverStore(primary, clock)
    subject = counter(SlidingWindow(100, MINUTE_US))
    primary.is_gone = True
    await admitted(store, subject, checks=20)
    clock.advance(61)
    await admitted(store, subject, checks=5)
    primary.is_gone = False
    await turns()
    assert (await ask(store, subject, cost=0)).outcomes[0].remaining == 95
    await store.close()


async def test_a_single_failure_is_answered_locally_and_charged_at_the_next_success(
    primary: Primary, clock: ManualClock
) -> None:
    store = FailoverStore(primary, clock)
    subject = counter(SlidingWindow(100, MINUTE_US))
    primary.is_gone = True
    assert (await ask(store, subject)).degraded
    primary.is_gone = False
    assert not (await ask(store, subject)).degraded
    await turns()
    assert (await ask(store, subject, cost=0)).outcomes[0].remaining == 98
    assert store.stats.times_opened == 0
    await store.close()


async def test_units_of_a_call_that_may_have_run_are_brought_back_of_windows_and_not_of_quotas(
    clock: ManualClock,
) -> None:
    class Silent(Primary):
        """Does what it is asked, and does not say so."""

        async def decide(
            self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
        ) -> Verdict:
            verdict = await super().decide(counters, costs, check_id, hold)
            if self.is_silent:
                raise NoAnswer("silent")
            return verdict

        is_silent = True

    primary = Silent(clock)
    store = FailoverStore(primary, clock, Ledger(0))
    quota, window = counter(Quota(100)), counter(SlidingWindow(100, MINUTE_US))
    assert (await ask(store, quota, window)).degraded
    primary.is_silent = False
    await ask(store, quota, window, cost=0)
    await turns()
    verdict = await ask(store, quota, window, cost=0)
    assert [outcome.remaining for outcome in verdict.outcomes] == [99, 98]
    await store.close()


async def test_a_store_that_comes_and_goes_brings_one_share_a_window_not_one_each_time(
    primary: Primary, clock: ManualClock
) -> None:
    store = FailoverStore(primary, clock, Ledger(0), live_nodes=lambda: 3)
    subject = counter(SlidingWindow(30, MINUTE_US))
    assert await admitted(store, subject) == 30
    without = 0
    for _ in range(4):
        primary.is_gone = True
        without += await admitted(store, subject, checks=4)
        primary.is_gone = False
        await turns()
        assert not (await ask(store, subject)).admitted
    assert without == 10
    assert (await ask(store, subject, cost=0)).outcomes[0].remaining == -10
    clock.advance(61)
    primary.is_gone = True
    assert await admitted(store, subject) == 10
    await store.close()
