"""Without the store every limit goes on as it says; nothing raises, and nothing waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from apishield.core.model import (
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Mode,
    Once,
    OnStoreFailure,
    Quota,
    Repeat,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.core.ports import Hold
from apishield.errors import CounterUnreadable, NoAnswer, StoreFull, StoreUnavailable
from apishield.stores import breaker
from apishield.stores.failover import FailoverStore
from apishield.stores.memory import MemoryStore
from tests.support.clock import ManualClock
from tests.support.failing_store import MINUTE_US, Ledger, Primary, admitted, ask, counter, no_pauses, primary, turns

__all__ = ["no_pauses", "primary"]


@pytest.mark.parametrize(
    "rule",
    [
        FixedWindow(30, MINUTE_US),
        SlidingWindow(30, MINUTE_US),
        TokenBucket(30, MINUTE_US, 30),
        Quota(30),
        Concurrency(30, MINUTE_US),
    ],
)
async def test_each_node_admits_its_share_and_says_that_it_is_degraded(
    primary: Primary, clock: ManualClock, rule: Algorithm
) -> None:
    primary.is_gone = True
    stores = [FailoverStore(primary, clock, live_nodes=lambda: 3) for _ in range(3)]
    assert [await admitted(store, counter(rule)) for store in stores] == [10, 10, 10]
    verdict = await ask(stores[0], counter(rule), check_id="more")
    assert (verdict.admitted, verdict.degraded, verdict.now_us) == (False, True, clock.now_us)
    for store in stores:
        await store.close()


async def test_a_share_is_at_least_one(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock, live_nodes=lambda: 50)
    assert await admitted(store, counter(SlidingWindow(30, MINUTE_US))) == 1
    await store.close()


@pytest.mark.parametrize(
    ("on", "expected"), [(OnStoreFailure.ALLOW, 100), (OnStoreFailure.DENY, 0), (OnStoreFailure.LOCAL, 5)]
)
async def test_each_limit_does_what_it_says(
    primary: Primary, clock: ManualClock, on: OnStoreFailure, expected: int
) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock)
    assert await admitted(store, counter(SlidingWindow(5, MINUTE_US), on=on)) == expected
    await store.close()


async def test_what_is_reserved_without_any_limit_does_not_wait_for_a_store_that_is_gone(
    primary: Primary, clock: ManualClock
) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock)
    await admitted(store, counter(SlidingWindow(5, MINUTE_US)))
    asked, hold = primary.asked, Hold("as:{ten_1}|held|dec_1", 60, (), settles=True)
    verdict = store.decide([], [], "dec_1", hold)
    assert isinstance(verdict, Verdict)
    assert (verdict.admitted, verdict.degraded, primary.asked) == (True, True, asked)
    await store.close()


async def test_of_a_bucket_that_allows_all_the_bucket_remains(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock)
    verdict = await ask(store, counter(TokenBucket(100, MINUTE_US, 10), on=OnStoreFailure.ALLOW))
    assert verdict.outcomes[0].remaining == 10
    await store.close()


async def test_a_limit_that_denies_refuses_the_whole_check_and_nothing_is_charged(
    primary: Primary, clock: ManualClock
) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock)
    local, allow = counter(SlidingWindow(5, MINUTE_US)), counter(SlidingWindow(5, MINUTE_US), on=OnStoreFailure.ALLOW)
    deny = counter(SlidingWindow(5, MINUTE_US), on=OnStoreFailure.DENY)
    verdict = await ask(store, local, deny, allow)
    assert verdict.denied
    assert (verdict.admitted, verdict.degraded) == (False, True)
    assert [outcome.admitted for outcome in verdict.outcomes] == [True, False, True]
    assert (await ask(store, local, cost=0)).outcomes[0].remaining == 5
    await store.close()


async def test_a_shadow_limit_that_denies_refuses_nothing(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock)
    shadow = counter(SlidingWindow(5, MINUTE_US), on=OnStoreFailure.DENY, mode=Mode.SHADOW)
    assert (await ask(store, shadow)).admitted
    await store.close()


async def test_after_a_few_failures_checks_no_longer_wait_for_the_store(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock)
    for _ in range(breaker.FAILURES_TO_OPEN):
        await ask(store, counter(SlidingWindow(5, MINUTE_US)))
    asked = primary.asked
    assert store.is_degraded
    assert isinstance(store.decide([counter(SlidingWindow(5, MINUTE_US))], [1]), Verdict)  # at once
    assert primary.asked == asked
    await store.close()


async def test_numbers_may_change_while_the_store_is_gone(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    nodes = 1
    store = FailoverStore(primary, clock, live_nodes=lambda: nodes)
    subject = counter(SlidingWindow(10, MINUTE_US))
    assert await admitted(store, subject, checks=4) == 4
    nodes = 2
    assert await admitted(store, subject) == 1
    grown = replace(subject, limit=replace(subject.limit, algorithm=SlidingWindow(40, MINUTE_US)))
    assert await admitted(store, grown) == 15
    await store.close()


async def test_a_check_of_one_name_is_decided_once_by_a_node_without_its_store(
    primary: Primary, clock: ManualClock
) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock, Ledger(0))
    quota, once = counter(Quota(10)), Once("as:{ten_1}|once|a", "q")

    async def ask_once(named: Once) -> Verdict:
        verdict = store.decide_once(named, [quota], [1], "dec_1")
        return verdict if isinstance(verdict, Verdict) else await verdict

    verdicts = await asyncio.gather(*(ask_once(once) for _ in range(5)))
    assert [isinstance(verdict, Repeat) for verdict in verdicts].count(False) == 1
    assert all(verdict.admitted and verdict.degraded for verdict in verdicts)
    assert (await ask(store, quota, cost=0)).outcomes[0].remaining == 9
    primary.is_gone = False
    await turns()
    assert isinstance(await ask_once(once), Repeat)  # this node's word stands when the store is back
    assert not isinstance(await ask_once(Once("as:{ten_1}|once|b", "q")), Repeat)
    await store.close()


async def test_a_check_of_one_name_without_limits_finds_a_lost_store_too(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock)
    for number in range(10):
        verdict = store.decide_once(Once(f"as:{{ten_1}}|once|{number}", "q"), [], [], "dec_1")
        assert (verdict if isinstance(verdict, Verdict) else await verdict).admitted
    await store.close()


async def test_a_full_store_is_no_failure_of_the_breaker(clock: ManualClock) -> None:
    class Full(Primary):
        async def _answer(self) -> None:
            raise StoreFull("full")

    store = FailoverStore(Full(clock), clock)
    assert await admitted(store, counter(SlidingWindow(5, MINUTE_US))) == 5
    assert not store.is_degraded
    await store.close()


async def test_a_counter_that_cant_be_read_is_decided_here_and_the_store_goes_on_with_all_others(
    primary: Primary, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt, shared = counter(SlidingWindow(5, MINUTE_US), "spoilt"), counter(FixedWindow(100, MINUTE_US), "all")
    unread, answer = {spoilt.key}, primary.decide

    async def decide(
        counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
    ) -> Verdict:
        if any(each.key in unread for each in counters):
            raise CounterUnreadable(spoilt.key, "WRONGTYPE")
        return await answer(counters, costs, check_id, hold)

    monkeypatch.setattr(primary, "decide", decide)
    store = FailoverStore(primary, clock)
    assert await admitted(store, spoilt, shared, checks=20) == 5
    assert (store.is_degraded, store.stats.failures, store.stats.local_decisions) == (False, 0, 20)
    verdict = await ask(store, counter(FixedWindow(5, MINUTE_US)), shared)
    assert (verdict.admitted, verdict.degraded) == (True, False)
    await turns()
    looked = await ask(store, shared, cost=0)
    assert looked.outcomes[0].remaining == 100 - 5 - 1  # what was admitted here was charged at the next answer
    unread.clear()
    await ask(store, spoilt, cost=0)
    await turns()
    assert (await ask(store, spoilt, cost=0)).outcomes[0].remaining == 0
    await store.close()


async def test_a_store_that_answers_at_once_is_passed_through(clock: ManualClock) -> None:
    store = FailoverStore(MemoryStore(clock), clock)
    verdict = store.decide([counter(SlidingWindow(5, MINUTE_US))], [1])
    assert isinstance(verdict, Verdict)
    assert not verdict.degraded
    await store.close()


async def test_releasing_never_raises_and_resetting_does(primary: Primary, clock: ManualClock) -> None:
    store: FailoverStore = FailoverStore(primary, clock)
    slot = counter(Concurrency(1, MINUTE_US))
    primary.is_gone = True
    assert (await ask(store, slot, check_id="one")).admitted
    await store.release([slot], [1], "one")
    assert (await ask(store, slot, check_id="two")).admitted
    with pytest.raises(StoreUnavailable):
        await store.reset([slot])
    await store.close()


async def test_a_reset_that_failed_forgets_nothing_here_and_is_not_even_sent_while_the_store_is_gone(
    primary: Primary, clock: ManualClock
) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock)
    window = counter(SlidingWindow(5, MINUTE_US))
    assert await admitted(store, window) == 5
    assert store.is_degraded
    asked = primary.resets
    with pytest.raises(StoreUnavailable) as refused:
        await store.reset([window])
    assert not isinstance(refused.value, NoAnswer)  # it is known that nothing was done, or will be
    assert primary.resets == asked
    assert not (await ask(store, window)).admitted
    await store.close()
