"""A Redis that is killed or frozen under load: every check is answered, soon, and the limit is passed by a share at most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from apishield.core.counter_keys import counter_key
from apishield.core.model import Counter, Limit, Quota, SlidingWindow, Verdict
from apishield.stores.failover import FailoverStore
from apishield.stores.redis import RedisStore
from tests.support.clock import ManualClock
from tests.support.services import RedisServer

HOUR_US = 3_600_000_000
TASKS = 16
ANSWER_SECONDS = 5  # a check takes at most the time-out of 50 ms; this only tells waiting from hanging


def counter(rule: SlidingWindow | Quota) -> Counter:
    limit = Limit(id=f"lim_{type(rule).__name__}", name="x", algorithm=rule)
    return Counter(counter_key("ten_1", "live", limit, {"key": "key_1"}), limit)


async def ask(store: FailoverStore, *counters: Counter, cost: int = 1) -> Verdict:
    verdict = store.decide(counters, [cost] * len(counters))
    if isinstance(verdict, Verdict):
        await asyncio.sleep(0)
        return verdict
    return await asyncio.wait_for(verdict, ANSWER_SECONDS)


async def load(store: FailoverStore, *counters: Counter, until: Callable[[Verdict], bool]) -> int:
    """Asks with all tasks until each has seen an answer that ends it; returns how many checks were admitted."""

    async def task() -> int:
        admitted = 0
        while True:
            verdict = await ask(store, *counters)
            admitted += verdict.admitted
            if until(verdict):
                return admitted

    return sum(await asyncio.gather(*(task() for _ in range(TASKS))))


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_redis_gone_under_load_admits_at_most_a_share_more_and_heals_by_itself(
    redis_url: str, redis_server: RedisServer, clock: ManualClock, fault: str
) -> None:
    store = FailoverStore(RedisStore(redis_url), clock, live_nodes=lambda: 10)
    window = counter(SlidingWindow(1_000, HOUR_US))
    before = await load(store, window, until=lambda verdict: verdict.outcomes[0].remaining < 500)
    redis_server.kill() if fault == "kill" else redis_server.stop()
    without = await load(store, window, until=lambda verdict: verdict.degraded and not verdict.admitted)
    assert without <= 100
    redis_server.heal()
    # A Redis that was killed may have forgotten: its verdicts are marked for a window, and so tell nothing about healing.
    after = await load(
        store,
        window,
        until=lambda verdict: not verdict.admitted and not (store.is_degraded if fault == "kill" else verdict.degraded),
    )
    assert (await ask(store, window)).degraded == (fault == "kill")
    if fault == "stop":  # a killed one has lost its windows
        assert before + without + after <= 1_000 + 100
    assert not store.is_degraded
    await store.close()


async def test_a_quota_is_right_again_after_redis_was_frozen(
    redis_url: str, redis_server: RedisServer, clock: ManualClock
) -> None:
    store = FailoverStore(RedisStore(redis_url), clock)
    quota = counter(Quota(1_000_000))
    admitted = await load(store, quota, until=lambda verdict: verdict.outcomes[0].remaining < 999_000)
    redis_server.stop()
    admitted += await load(store, quota, until=lambda verdict: store.stats.local_decisions > 500)
    redis_server.cont()
    admitted += await load(store, quota, until=lambda verdict: not verdict.degraded)
    while store.stats.brought_back == 0:
        await ask(store, quota, cost=0)
    used = 1_000_000 - (await ask(store, quota, cost=0)).outcomes[0].remaining
    assert admitted <= used <= admitted + store.stats.failures  # a call that timed out may have run: its charge stands
    await store.close()
