"""A part of the store is gone, or only what was used of a quota is not known: all else is decided by the store as ever."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from apishield.core.counter_keys import counter_key
from apishield.core.model import (
    Counter,
    Limit,
    Once,
    OnStoreFailure,
    Quota,
    Repeat,
    SlidingWindow,
    Verdict,
)
from apishield.core.ports import Hold
from apishield.errors import StoreUnavailable
from apishield.stores.failover import FailoverStore
from apishield.stores.memory import MemoryStore
from tests.support.clock import ManualClock
from tests.support.failing_store import MINUTE_US, Ledger, Primary, admitted, ask, counter, no_pauses, turns

__all__ = ["no_pauses"]


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
