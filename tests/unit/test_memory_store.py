"""The memory store: what it forgets, what it never does, and what it weighs."""

from __future__ import annotations

import gc
import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.counter_keys import counter_key, limit_keys
from apishield.core.model import (
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Quota,
    ReadyCounters,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.core.rate_limiter import sliding_window
from apishield.core.rate_limiter.verdict import new_state
from apishield.errors import StoreFull, StoreUnavailable
from apishield.stores.memory import FORGET_AT_ONCE, MemoryStore
from tests.support.clock import SECOND_US, START_US, ManualClock

MINUTE_US = 60 * SECOND_US


def counter(
    subject: str, rule: Algorithm | None = None, *, anonymous: bool = False, tenant_id: str = "ten_1"
) -> Counter:
    limit = Limit(id="lim_1", name="x", algorithm=rule or FixedWindow(2, MINUTE_US))
    overflow = limit_keys(tenant_id, "live", limit).overflow if anonymous else None
    return Counter(counter_key(tenant_id, "live", limit, {"ip": subject}), limit, None, overflow)


def ask(store: MemoryStore, *counters: Counter, cost: int = 1) -> Verdict:
    verdict = store.decide(counters, [cost] * len(counters))
    assert isinstance(verdict, Verdict)
    return verdict


def ask_ready(store: MemoryStore, counters: ReadyCounters, *costs: int) -> Verdict:
    verdict = store.decide(counters, costs)
    assert isinstance(verdict, Verdict)
    return verdict


class Ledger:
    """Durable use of quotas, in a dictionary."""

    def __init__(self, used: dict[str, int] | None = None) -> None:
        self.used = used or {}
        self.loads = 0
        self.noted: list[tuple[str, int]] = []
        self.is_gone = False

    async def load(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        self.loads += 1
        if self.is_gone:
            raise OSError("no database")
        return {key: self.used[key] for key in counter_keys if key in self.used}

    def note(self, counter_key: str, period_start_us: int, used: int, at_us: int) -> None:
        self.used[counter_key] = used
        self.noted.append((counter_key, used))


def test_idle_counters_are_forgotten_a_few_at_a_time(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    for number in range(1000):
        ask(store, counter(f"ip{number}"))
    assert len(store) == 1000
    clock.advance(130)
    sizes = []
    for _ in range(1000 // FORGET_AT_ONCE + 1):
        before = len(store)
        ask(store, counter("busy"), cost=0)
        sizes.append(before - len(store))
    assert len(store) == 0
    assert max(sizes) == FORGET_AT_ONCE


def test_a_counter_in_use_is_never_forgotten(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    for rule in (SlidingWindow(60, MINUTE_US), TokenBucket(60, MINUTE_US, 60)):
        used = counter("used", rule)
        for _ in range(600):
            clock.advance(1)
            assert ask(store, used).admitted
            assert ask(store, used, cost=0).outcomes[0].remaining < 60


def test_what_was_forgotten_does_not_count_again_when_the_clock_steps_back(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    used = counter("a", SlidingWindow(1, MINUTE_US))
    ask(store, used)
    clock.advance(3600)
    ask(store, counter("b"), cost=0)
    assert len(store) == 0
    clock.advance(-3600)
    assert ask(store, used).now_us >= START_US + MINUTE_US


def test_a_clock_that_steps_back_a_little_is_followed_by_new_counters(clock: ManualClock) -> None:
    used, window_us = counter("a", SlidingWindow(9, SECOND_US)), SECOND_US

    def is_forgotten(now_us: int) -> bool:
        store, clock.now_us = MemoryStore(clock), START_US
        ask(store, used)
        clock.now_us = now_us
        ask(store, counter("b"), cost=0)
        return not len(store)

    times = range(START_US, START_US + 10 * SECOND_US)
    looked_at_us = times[bisect_left(times, True, key=is_forgotten)]
    store = MemoryStore(clock)
    for charged_at_us in (START_US, looked_at_us - window_us):
        clock.now_us = charged_at_us
        ask(store, used)
    clock.now_us = looked_at_us  # at which it is idle, since this very moment
    ask(store, counter("b"), cost=0)
    clock.now_us -= 1
    assert ask(store, counter("c")).now_us == clock.now_us


def test_looking_and_being_refused_make_no_counter(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    ask(store, counter("a"), cost=0)
    ask(store, counter("b"), cost=3)
    assert len(store) == 0


def test_a_full_store_takes_no_new_keyed_counters_and_keeps_the_live_ones(clock: ManualClock) -> None:
    store = MemoryStore(clock, max_counters=10, shared=False)
    for number in range(10):
        ask(store, counter(f"key{number}"))
    with pytest.raises(StoreFull):
        ask(store, counter("one more"))
    assert ask(store, counter("one more"), cost=0).admitted  # to look takes no room
    for number in range(10):
        assert ask(store, counter(f"key{number}")).admitted
        assert not ask(store, counter(f"key{number}")).admitted


def test_in_a_full_store_new_anonymous_subjects_share_one_counter(clock: ManualClock) -> None:
    store = MemoryStore(clock, max_counters=10, shared=False)
    for number in range(10):
        ask(store, counter(f"key{number}"))
    verdicts = [ask(store, counter(f"ip{number}", anonymous=True)) for number in range(5)]
    assert [verdict.admitted for verdict in verdicts] == [True, True, False, False, False]
    assert len(store) == 11


def test_a_full_store_makes_room_of_idle_counters_at_once(clock: ManualClock) -> None:
    store = MemoryStore(clock, max_counters=1000, shared=False)
    for number in range(1000):
        ask(store, counter(f"key{number}"))
    clock.advance(130)
    assert ask(store, counter("one more")).admitted


def test_to_make_room_for_a_counter_leaves_no_old_state_of_another_of_its_check_in_use(clock: ManualClock) -> None:
    store = MemoryStore(clock, max_counters=800)
    shared = counter("shared", FixedWindow(10, MINUTE_US))
    one, other = ReadyCounters([shared]), ReadyCounters([shared, counter("its own")])
    ask_ready(store, one, 1)
    for number in range(690):
        ask(store, counter(f"{number}"))
    for number in range(108):
        ask(store, counter("1", tenant_id=f"ten_of_{number}"))
    clock.advance(130)  # all of them are idle, more than one check looks at
    ask_ready(store, other, 0, 1)  # finds the shared one, then makes room for its own
    asked = [verdict for _ in range(10) for verdict in (ask_ready(store, one, 1), ask_ready(store, other, 1, 0))]
    assert sum(verdict.admitted for verdict in asked) == 10


def test_strangers_of_one_tenant_leave_room_for_every_other_tenant_and_for_all_keys(clock: ManualClock) -> None:
    store = MemoryStore(clock, max_counters=1000)
    for tenant, taken in (("ten_1", 250), ("ten_2", 500), ("ten_3", 500)):  # a quarter each, half together
        for number in range(600):
            ask(store, counter(f"ip{number}", anonymous=True, tenant_id=tenant))
        overflows = int(tenant[-1])
        assert len(store) == taken + overflows
    for number in range(300):
        assert ask(store, counter(f"key{number}", tenant_id="ten_1")).admitted


def test_room_that_strangers_gave_back_is_theirs_again(clock: ManualClock) -> None:
    store = MemoryStore(clock, max_counters=1000)
    for _ in range(3):
        for number in range(300):
            ask(store, counter(f"ip{number}", anonymous=True))
        assert len(store) == 251
        clock.advance(130)
    assert ask(store, counter("ip", anonymous=True)).admitted


def test_a_tenant_that_invents_subjects_beside_its_keys_leaves_room_for_small_tenants(clock: ManualClock) -> None:
    store = MemoryStore(clock, max_counters=1000)
    for number in range(875):
        ask(store, counter(f"user{number}"))
    with pytest.raises(StoreFull):
        ask(store, counter("one more"))
    assert len(store) == 875
    for tenant in range(25):
        for number in range(5):
            assert ask(store, counter(f"key{number}", tenant_id=f"small_{tenant}")).admitted
    assert len(store) == 1000


@pytest.mark.parametrize(
    "rule", [SlidingWindow(1000, MINUTE_US), Concurrency(1000, MINUTE_US)], ids=lambda rule: type(rule).__name__
)
async def test_counters_made_once_keep_nothing_of_what_was_forgotten_or_reset(
    clock: ManualClock, rule: Algorithm
) -> None:
    store = MemoryStore(clock)
    idle, reset = (ReadyCounters([counter(name, rule)]) for name in ("idle", "reset"))
    for number in range(500):
        clock.advance(0.1)
        for each in (idle, reset):
            store.decide(each, [1], f"{number}")
    await store.reset(reset)
    clock.advance(130)
    ask(store, counter("another"))
    for each in (idle, reset):
        (state,) = each.found.states
        held = [getattr(state, name, None) for name in ("times", "costs", "slots")]
        assert not any(held)


async def test_resets_leave_nothing_behind(clock: ManualClock) -> None:
    store = MemoryStore(clock)
    for _ in range(100):
        ask(store, counter("a"))
        await store.reset([counter("a")])
    clock.advance(130)
    ask(store, counter("b"), cost=0)
    assert len(store) == 0


async def test_a_quota_is_seeded_from_the_ledger_once_and_written_behind(clock: ManualClock) -> None:
    quota = counter("a", Quota(10))
    ledger = Ledger({quota.key: 7})
    store = MemoryStore(clock, ledger)
    pending = store.decide([quota], [2])
    assert not isinstance(pending, Verdict)
    assert (await pending).outcomes[0].remaining == 1
    assert not ask(store, quota, cost=2).admitted
    assert ask(store, quota).admitted
    assert (ledger.loads, ledger.noted) == (1, [(quota.key, 9), (quota.key, 10)])


async def test_a_quota_that_is_reset_while_it_is_looked_up_is_decided_all_the_same(clock: ManualClock) -> None:
    quota = counter("a", Quota(10))
    store = MemoryStore(clock, Ledger({quota.key: 3}))
    first = store.decide([quota], [1])
    assert not isinstance(first, Verdict)
    await first
    await store.reset([quota])
    asked = store.decide([quota], [1])
    await store.reset([quota])
    assert not isinstance(asked, Verdict)
    assert (await asked).outcomes[0].remaining == 5


async def test_a_quota_begins_anew_in_the_next_period(clock: ManualClock) -> None:
    quota = counter("a", Quota(10, "day"))
    store = MemoryStore(clock, Ledger())
    first = store.decide([quota], [10])
    assert not isinstance(first, Verdict)
    assert (await first).admitted
    clock.now_us += ask(store, quota, cost=0).outcomes[0].reset_us
    store._ledger = Ledger()  # which knows of no use in the new period
    second = store.decide([quota], [10])
    assert not isinstance(second, Verdict)
    assert (await second).admitted


async def test_a_quota_of_unknown_use_does_not_count_from_zero(clock: ManualClock) -> None:
    ledger = Ledger()
    ledger.is_gone = True
    pending = MemoryStore(clock, ledger).decide([counter("a", Quota(10))], [1])
    assert not isinstance(pending, Verdict)
    with pytest.raises(StoreUnavailable):
        await pending


@pytest.mark.parametrize(
    "rule",
    [FixedWindow(1, 1), SlidingWindow(1, 1), TokenBucket(1, 1, 1), Concurrency(1, 1), Quota(1)],
    ids=lambda rule: type(rule).__name__,
)
def test_no_collector_walks_what_a_counter_remembers(rule: Algorithm) -> None:
    assert not gc.is_tracked(new_state(rule))  # a million of them would hold a check up


@given(
    requests=st.sampled_from([1, 10, 100, 1000, 10_000, 1_000_000_000]),
    pauses_us=st.lists(st.sampled_from([1, 999_999, 1_000_000, 1_000_001, 60_000_000]), min_size=1, max_size=20),
)
def test_a_sliding_window_weighs_at_most_16_kib_and_little_where_the_limit_is_small(
    requests: int, pauses_us: list[int]
) -> None:
    rule = SlidingWindow(requests, 1000 * SECOND_US)
    state, now_us = sliding_window.State(rule), START_US
    for step in range(3000):
        now_us += pauses_us[step % len(pauses_us)]
        if state.fits(now_us, 1):
            state.charge(now_us, 1)
        assert _bytes(state) <= min(16_384, 1000 + 14 * requests)


def _bytes(state: sliding_window.State) -> int:
    """What the state holds by itself; its rule and the rule's numbers are shared by all states of the limit."""
    own = [name for name in dir(state) if not name.startswith("_") and name not in {"rule", "requests", "window_us"}]
    parts = [getattr(state, name) for name in own]
    return sys.getsizeof(state) + sum(sys.getsizeof(part) for part in parts if isinstance(part, int | array))
