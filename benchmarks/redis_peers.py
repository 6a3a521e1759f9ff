"""The limiters on PyPI over one Redis, on asyncio, each in the fastest configuration that does the work; and ours.

All of them use redis-py with hiredis, on uvloop.

- ``limits``: ``limits.aio`` with the ``redispy`` implementation; the moving window is exact, the counter is not.
- ``throttled-py``: ``throttled.asyncio`` (its fixed window is two commands that are not atomic; the rest as in memory).
- ``pyrate-limiter``: ``RedisBucket`` and ``RedisStateStore`` under ``Limiter.try_acquire``, whose awaitables run side by side;
  ``try_acquire_async`` would let one check at a time through. Decides by the client's clock; a set entry a request.

Several limits are several round trips, one after the other, save with ``pyrate-limiter`` and ours, where they are one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from apishield.stores.redis.store import RedisStore
from benchmarks.peers import ours_counters, ours_limits
from benchmarks.rules import Kind, Rule

Ask = Callable[[int], Awaitable[Any]]
"""One check of the subject with this number."""

OURS = "apishield"
INEXACT = {("limits, counter", "sliding window"), ("throttled-py", "sliding window"), ("throttled-py", "token bucket")}


class Fleet:
    """Every contender over the Redis at ``url``; ``close`` ends what has connections."""

    def __init__(self, url: str, subjects: int) -> None:
        self._url = url
        self._names = [f"198.51.{index // 256}.{index % 256}" for index in range(subjects)]
        self._ours = RedisStore(url, timeout_ms=5000)

    async def close(self) -> None:
        """Ends our connections."""
        await self._ours.close()

    async def contenders(self, kind: Kind, rules: Sequence[Rule]) -> dict[str, Ask]:
        """Everyone who has this algorithm."""
        found = {OURS: self._ours_ask(kind, rules)}
        if kind != "token bucket":
            found["limits"] = self._limits(kind, rules)
        if kind == "sliding window":
            found["limits, counter"] = self._limits("counter", rules)
        found["throttled-py"] = self._throttled(kind, rules)
        found["pyrate-limiter"] = await self._pyrate(kind, rules)
        return found

    def _ours_ask(self, kind: Kind, rules: Sequence[Rule]) -> Ask:
        limits = ours_limits(kind, rules)
        ready = [ours_counters(limits, name) for name in self._names]
        costs = [1] * len(rules)
        decide = self._ours.decide

        async def ask(subject: int) -> Any:
            verdict: Any = decide(ready[subject], costs)
            return await verdict

        return ask

    def _limits(self, kind: str, rules: Sequence[Rule]) -> Ask:
        from limits import RateLimitItemPerSecond
        from limits.aio.storage import RedisStorage
        from limits.aio.strategies import (
            FixedWindowRateLimiter,
            MovingWindowRateLimiter,
            SlidingWindowCounterRateLimiter,
        )

        strategies = {
            "fixed window": FixedWindowRateLimiter,
            "sliding window": MovingWindowRateLimiter,
            "counter": SlidingWindowCounterRateLimiter,
        }
        hit = strategies[kind](RedisStorage(f"async+{self._url}", implementation="redispy", key_prefix=kind)).hit
        items = [RateLimitItemPerSecond(rule.requests, rule.seconds) for rule in rules]
        names = self._names

        async def ask(subject: int) -> Any:
            for item in items:
                await hit(item, names[subject])

        return ask

    def _throttled(self, kind: Kind, rules: Sequence[Rule]) -> Ask:
        from throttled import per_duration
        from throttled.asyncio import RedisStore as Store
        from throttled.asyncio import Throttled

        store = Store(server=self._url)
        asks = [
            Throttled(
                using=kind.replace(" ", "_"),
                quota=per_duration(timedelta(seconds=rule.seconds), rule.requests, rule.requests),
                store=store,
                key_prefix=f"rule{at}",
            ).limit
            for at, rule in enumerate(rules)
        ]
        names = self._names

        async def ask(subject: int) -> Any:
            for limit in asks:
                await limit(names[subject])

        return ask

    async def _pyrate(self, kind: Kind, rules: Sequence[Rule]) -> Ask:
        from pyrate_limiter import BucketFactory, Limiter, Rate, RateItem, RedisBucket
        from pyrate_limiter.abstracts.algorithm import FixedWindow, TokenBucket
        from pyrate_limiter.buckets.redis_state import RedisStateStore
        from pyrate_limiter.buckets.state_bucket import StateBucket
        from pyrate_limiter.clocks import WallClock
        from redis.asyncio import Redis

        client: Any = Redis.from_url(self._url)
        rates = [Rate(rule.requests, rule.seconds * 1000) for rule in rules]
        now = WallClock().now
        names = self._names
        buckets: dict[str, Any] = {}
        for name in names:
            if kind == "token bucket":
                store = RedisStateStore(client, f"pyrate:{kind}:{len(rules)}:{name}")
                buckets[name] = StateBucket(rates, TokenBucket(), store)
            else:
                algorithm = FixedWindow() if kind == "fixed window" else None
                init: Any = RedisBucket.init(rates, client, f"pyrate:{kind}:{len(rules)}:{name}", algorithm)
                buckets[name] = await init

        class Factory(BucketFactory):
            def wrap_item(self, name: str, weight: int = 1) -> RateItem:
                return RateItem(name, now(), weight)

            def get(self, item: RateItem) -> Any:
                return buckets[item.name]

        acquire: Any = Limiter(Factory()).try_acquire

        async def ask(subject: int) -> Any:
            return await acquire(names[subject], 1, False)

        return ask
