"""Without the store every limit goes on as it says; nothing raises, nothing waits, and what was admitted is charged later."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from apishield.core.counter_keys import counter_key
from apishield.core.model import (
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Mode,
    Once,
    OnStoreFailure,
    Quota,
    Repeat,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.core.ports import CounterStore, Held, Hold
from apishield.errors import NoAnswer, StoreFull, StoreUnavailable
from apishield.stores import breaker
from apishield.stores.failover import FailoverStore
from apishield.stores.memory import MemoryStore
from tests.support.clock import SECOND_US, ManualClock

MINUTE_US = 60 * SECOND_US


class Primary:
    """A store that is there or not."""

    def __init__(self, clock: ManualClock) -> None:
        self.inner = MemoryStore(clock)
        self.is_gone = False
        self.asked = 0
        self.resets = 0

    async def decide(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
    ) -> Verdict:
        self.asked += 1
        await self._answer()
        verdict = self.inner.decide(counters, costs, check_id, hold)
        return verdict if isinstance(verdict, Verdict) else await verdict

    async def decide_once(
        self,
        once: Once,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        hold: Hold | None = None,
    ) -> Verdict:
        self.asked += 1
        await self._answer()
        verdict = self.inner.decide_once(once, counters, costs, check_id, hold)
        return verdict if isinstance(verdict, Verdict) else await verdict

    async def held(self, record_key: str) -> Held | None:
        await self._answer()
        return await self.inner.held(record_key)

    async def settle(self, record_key: str, held: Held, costs: Sequence[int], check_id: str) -> bool:
        await self._answer()
        return await self.inner.settle(record_key, held, costs, check_id)

    async def charge(self, counters: Sequence[Counter], costs: Sequence[int]) -> None:
        await self._answer()
        await self.inner.charge(counters, costs)

    async def release(self, counters: Sequence[Counter], costs: Sequence[int], check_id: str) -> None:
        await self._answer()
        await self.inner.release(counters, costs, check_id)

    async def reset(self, counters: Sequence[Counter]) -> None:
        self.resets += 1
        await self._answer()
        await self.inner.reset(counters)

    async def close(self) -> None:
        pass

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.is_gone:
            raise StoreUnavailable("gone")


class Ledger:
    """Durable use of quotas."""

    def __init__(self, used: int) -> None:
        self.used = used
        self.noted: list[int] = []
        self.is_slow = False
        self.asked = 0

    async def load(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        self.asked += 1
        if self.is_slow:
            await asyncio.Event().wait()
        return dict.fromkeys(counter_keys, self.used)

    def note(self, counter_key: str, period_start_us: int, used: int, at_us: int) -> None:
        self.noted.append(used)


def counter(
    rule: Algorithm, subject: str = "a", on: OnStoreFailure = OnStoreFailure.LOCAL, mode: Mode = Mode.ENFORCE
) -> Counter:
    limit = Limit(id=f"lim_{type(rule).__name__}_{on}", name="x", algorithm=rule, on_store_failure=on, mode=mode)
    return Counter(counter_key("ten_1", "live", limit, {"key": subject}), limit)


async def ask(store: CounterStore, *counters: Counter, cost: int = 1, check_id: str = "dec_1") -> Verdict:
    verdict = store.decide(counters, [cost] * len(counters), check_id)
    return verdict if isinstance(verdict, Verdict) else await verdict


async def admitted(store: CounterStore, *counters: Counter, checks: int = 100) -> int:
    return sum([(await ask(store, *counters, check_id=f"dec_{number}")).admitted for number in range(checks)])


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes follow each other at once, and each failing check is a failure by itself."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0)
    monkeypatch.setattr(breaker, "ONE_FAILURE_SECONDS", -1)


@pytest.fixture
def primary(clock: ManualClock) -> Primary:
    return Primary(clock)


async def turns(count: int = 50) -> None:
    """Lets what runs behind go on."""
    for _ in range(count):
        await asyncio.sleep(0)


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


async def test_a_quota_goes_on_from_what_the_ledger_knows(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    for used, expected in [(0, 50), (70, 30), (100, 0), (120, 0)]:
        store = FailoverStore(primary, clock, Ledger(used), live_nodes=lambda: 2)
        assert await admitted(store, counter(Quota(100))) == expected
        await store.close()


async def test_a_quota_whose_ledger_hangs_too_counts_its_share(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    ledger = Ledger(0)
    ledger.is_slow = True
    store = FailoverStore(primary, clock, ledger, live_nodes=lambda: 2)
    assert await admitted(store, counter(Quota(100))) == 50
    await store.close()


async def test_a_store_that_lost_its_state_is_not_charged_twice_for_what_was_admitted_without_it(
    primary: Primary, clock: ManualClock
) -> None:
    ledger = Ledger(70)
    primary.is_gone = True
    store = FailoverStore(primary, clock, ledger)
    assert await admitted(store, counter(Quota(100)), checks=20) == 20
    assert ledger.noted == []  # the store is seeded with 70, and then charged 20
    primary.inner = MemoryStore(clock, ledger)
    primary.is_gone = False
    await turns()
    assert (await ask(store, counter(Quota(100)), cost=0)).outcomes[0].remaining == 10
    await store.close()


async def test_a_quota_that_was_overdrawn_stays_so_without_the_store(primary: Primary, clock: ManualClock) -> None:
    primary.is_gone = True
    store = FailoverStore(primary, clock, Ledger(901))
    outcome = (await ask(store, counter(Quota(100)))).outcomes[0]
    assert (outcome.admitted, outcome.remaining) == (False, -801)
    await store.close()


async def test_quotas_that_the_ledger_of_events_keeps_are_not_charged_on_healing(
    primary: Primary, clock: ManualClock
) -> None:
    ledger, kept, other, healed = Ledger(70), counter(Quota(100)), counter(Quota(100), "b"), []
    primary.is_gone = True
    store = FailoverStore(
        primary,
        clock,
        ledger,
        is_kept=lambda asked: asked.key == kept.key,
        on_healed=lambda: healed.append(store.is_degraded),
    )
    assert await admitted(store, kept, other, checks=20) == 20
    ledger.used += 20  # the events of what was admitted arrive
    primary.inner = MemoryStore(clock, ledger)
    primary.is_gone = False
    await turns()
    assert [outcome.remaining for outcome in (await ask(store, kept, cost=0)).outcomes] == [10]
    assert healed == [False]
    await store.close()


async def test_a_node_that_ends_notes_no_use_that_the_ledger_of_events_keeps(
    primary: Primary, clock: ManualClock
) -> None:
    ledger = Ledger(70)
    primary.is_gone = True
    store = FailoverStore(primary, clock, ledger, is_kept=lambda asked: True)
    assert await admitted(store, counter(Quota(100)), checks=20) == 20
    await store.close()
    assert ledger.noted == []


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


async def test_a_node_that_ends_without_its_store_leaves_the_use_of_quotas_to_the_ledger(
    primary: Primary, clock: ManualClock
) -> None:
    ledger = Ledger(70)
    primary.is_gone = True
    store = FailoverStore(primary, clock, ledger)
    assert await admitted(store, counter(Quota(100)), checks=20) == 20
    ledger.used = 75  # another node left before
    await store.close()
    assert ledger.noted == [95]


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


async def test_a_quota_is_learned_again_at_each_failure(primary: Primary, clock: ManualClock) -> None:
    ledger = Ledger(70)
    store = FailoverStore(primary, clock, ledger, live_nodes=lambda: 2)
    quota = counter(Quota(100))
    for used, expected in [(70, 30), (85, 15), (40, 50)]:
        ledger.used, primary.is_gone = used, True
        assert await admitted(store, quota) == expected
        primary.is_gone = False
        await turns()
        clock.advance(3)  # what was learned is old
    await store.close()


async def test_a_quota_is_not_learned_again_at_each_failure_within_two_seconds(
    primary: Primary, clock: ManualClock
) -> None:
    ledger = Ledger(70)
    store = FailoverStore(primary, clock, ledger, is_kept=lambda asked: True)
    for expected in (10, 10, 10, 0):  # it goes on from what was learned, and from what was admitted since
        primary.is_gone = True
        assert await admitted(store, counter(Quota(100)), checks=10) == expected
        primary.is_gone = False
        await turns()
    assert ledger.asked == 1
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


class Forgetful(Ledger):
    """A ledger of quotas that can't say what was used."""

    async def load(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        self.asked += 1
        raise ConnectionError("the database is away")


@pytest.fixture
def unseeded(clock: ManualClock) -> Primary:
    """A store that works, and knows nothing of quotas, as its ledger does not either."""
    primary = Primary(clock)
    primary.inner = MemoryStore(clock, Forgetful(0))
    return primary


async def test_where_only_the_use_of_a_quota_is_unknown_all_other_limits_are_decided_by_the_store(
    unseeded: Primary, clock: ManualClock
) -> None:
    stores = [FailoverStore(unseeded, clock, Forgetful(0), live_nodes=lambda: 2) for _ in range(2)]
    window, quota = counter(SlidingWindow(10, MINUTE_US)), counter(Quota(100))
    verdicts = [await ask(store, window, quota, check_id=f"dec_{number}") for number in range(20) for store in stores]
    assert [verdict.admitted for verdict in verdicts].count(True) == 10  # never over, as many nodes as there are
    assert all(verdict.degraded for verdict in verdicts)
    assert [outcome.remaining for outcome in verdicts[-1].outcomes] == [0, 45]  # what was refused used no quota
    for store in stores:
        assert not store.is_degraded
        assert store.stats.failures == 0
        assert not (await ask(store, counter(SlidingWindow(10, MINUTE_US), "b"))).degraded  # nobody else notices
        await store.close()


async def test_a_quota_of_unknown_use_admits_a_share_and_what_it_refuses_is_charged_to_no_other_limit(
    unseeded: Primary, clock: ManualClock
) -> None:
    store = FailoverStore(unseeded, clock, Forgetful(0), live_nodes=lambda: 4)
    window, quota = counter(SlidingWindow(100, MINUTE_US)), counter(Quota(20))
    assert await admitted(store, window, quota, checks=30) == 5
    assert (await ask(store, window, cost=0)).outcomes[0].remaining == 95
    deny = counter(Quota(20), on=OnStoreFailure.DENY)
    verdict = await ask(store, window, deny)
    assert (verdict.admitted, verdict.denied) == (False, True)
    unseeded.inner = MemoryStore(clock, Ledger(3))
    assert not (await ask(store, window, quota, cost=0)).degraded
    await turns()
    assert (await ask(store, quota, cost=0)).outcomes[0].remaining == 20 - 3 - 5  # no ledger of events keeps it
    await store.close()


async def test_a_check_of_one_name_is_decided_once_where_the_use_of_its_quota_is_unknown(
    unseeded: Primary, clock: ManualClock
) -> None:
    store = FailoverStore(unseeded, clock, Forgetful(0), is_kept=lambda asked: True)
    window, quota, once = counter(SlidingWindow(9, MINUTE_US)), counter(Quota(9)), Once("as:{ten_1}|once|a", "q")

    async def ask_once() -> Verdict:
        verdict = store.decide_once(once, [window, quota], [1, 1], "dec_1")
        return verdict if isinstance(verdict, Verdict) else await verdict

    assert [isinstance(await ask_once(), Repeat) for _ in range(3)] == [False, True, True]
    assert [outcome.remaining for outcome in (await ask(store, window, quota, cost=0)).outcomes] == [8, 8]
    await store.close()


async def test_where_one_server_of_several_is_gone_the_others_decide_what_is_theirs(clock: ManualClock) -> None:
    def place_of(key: str) -> str:
        return "gone" if "ten_gone" in key else "there"

    class HalfGone(Primary):
        async def decide(
            self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
        ) -> Verdict:
            self._reach(counters)
            return await super().decide(counters, costs, check_id, hold)

        async def charge(self, counters: Sequence[Counter], costs: Sequence[int]) -> None:
            self._reach(counters)
            await super().charge(counters, costs)

        def _reach(self, counters: Sequence[Counter]) -> None:
            if self.lost and place_of(counters[0].key) == "gone":
                raise StoreUnavailable("gone")

        lost = True

    half = HalfGone(clock)
    store = FailoverStore(half, clock, live_nodes=lambda: 2, place_of=place_of)
    limit = Limit(id="lim_1", name="x", algorithm=SlidingWindow(10, MINUTE_US), on_store_failure=OnStoreFailure.LOCAL)
    gone, there = (
        Counter(counter_key(tenant, "live", limit, {"key": "a"}), limit) for tenant in ("ten_gone", "ten_there")
    )
    verdicts = [(await ask(store, gone), await ask(store, there)) for _ in range(10)]
    assert [of_there.degraded for _, of_there in verdicts] == [False] * 10
    assert [of_gone.admitted for of_gone, _ in verdicts].count(True) == 5
    assert store.is_degraded
    assert (await ask(store, there, cost=0)).outcomes[0].remaining == 0
    half.lost = False
    await turns()
    assert not store.is_degraded
    verdict = await ask(store, gone, cost=0)
    assert (verdict.degraded, verdict.outcomes[0].remaining) == (False, 5)
    await store.close()
