"""The limiters on PyPI, in memory, each in the fastest configuration that does the work; and ours.

- ``limits``: ``strategy.hit``, which answers yes or no and nothing else. Fixed and moving window are exact; the moving
  window keeps one object a request. Its sliding-window *counter* weighs two sums and may admit more than the limit. It has
  no token bucket. Several limits are several hits: where a later one refuses, the earlier ones stay charged.
- ``throttled-py``: ``Throttled.limit`` on its memory store, large enough here not to evict. Its sliding window weighs two
  sums, its token bucket counts whole seconds: both may admit more than the limit. Several limits are several calls.
- ``pyrate-limiter``: ``Limiter.try_acquire`` over a factory with one bucket a subject, as its manual says for many subjects;
  exact to the millisecond. Nothing leaks here, which spares it work. Several limits are one list of rates, decided together.
- ``pyrate-limiter, bare bucket``: the bucket's own ``put`` without the limiter around it. While a subject has made fewer
  requests than the smallest limit it only appends to a list: the least that any limiter could do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from apishield.clock import system_clock
from apishield.core.counter_keys import counter_key, limit_keys, text_of
from apishield.core.model import Counter, Limit, ReadyCounters
from apishield.stores.memory import MemoryStore
from benchmarks.rounds import Contender
from benchmarks.rules import Kind, Rule

OURS = "apishield"
OURS_KEYED = "apishield, keys made"
BARE = "pyrate-limiter, bare bucket"
INEXACT = {("limits, counter", "sliding window"), ("throttled-py", "sliding window"), ("throttled-py", "token bucket")}
"""These may admit more than the limit."""


def contenders(kind: Kind, rules: Sequence[Rule], order: Sequence[int]) -> dict[str, Callable[[], Contender]]:
    """What makes everyone who has this algorithm, each with fresh state."""
    names = [f"198.51.{index // 256}.{index % 256}" for index in range(max(order) + 1)]
    asked = (rules, names, order)
    found = {OURS: partial(_ours, kind, *asked), OURS_KEYED: partial(_ours_keyed, kind, *asked)}
    if kind != "token bucket":
        found["limits"] = partial(_limits, kind, *asked)
    if kind == "sliding window":
        found["limits, counter"] = partial(_limits, "counter", *asked)
    found["throttled-py"] = partial(_throttled, kind, *asked)
    found["pyrate-limiter"] = partial(_pyrate, kind, *asked)
    found[BARE] = partial(_pyrate_bare, kind, *asked)
    return dict(found)


def ours_limits(kind: Kind, rules: Sequence[Rule]) -> list[Limit]:
    """``rules`` as limits."""
    return [Limit(id=f"lim_{at}", name=f"{rule}", algorithm=rule.algorithm(kind)) for at, rule in enumerate(rules)]


def ours_counters(limits: Sequence[Limit], name: str) -> list[Counter]:
    """The counters of one subject."""
    return [Counter(counter_key("ten_bench", "live", limit, {"ip": name}), limit) for limit in limits]


def _ours(kind: Kind, rules: Sequence[Rule], names: Sequence[str], order: Sequence[int]) -> Contender:
    """As the service asks for a key, whose counters the snapshot holds ready."""
    limits = ours_limits(kind, rules)
    ready = [ReadyCounters(ours_counters(limits, name)) for name in names]
    costs = [1] * len(rules)
    return Contender(MemoryStore(system_clock).decide, [(ready[index], costs) for index in order])


def _ours_keyed(kind: Kind, rules: Sequence[Rule], names: Sequence[str], order: Sequence[int]) -> Contender:
    """As the middleware asks for an address, whose counters are made with each check."""
    limits, costs, decide = ours_limits(kind, rules), [1] * len(rules), MemoryStore(system_clock).decide
    ready = [(limit_keys("ten_bench", "live", limit), limit) for limit in limits]

    def ask(name: str) -> object:
        named = text_of({"ip": name})
        return decide([Counter(keys.prefix + named, limit, None, keys.overflow) for keys, limit in ready], costs)

    return Contender(ask, [(names[index],) for index in order])


def _limits(kind: str, rules: Sequence[Rule], names: Sequence[str], order: Sequence[int]) -> Contender:
    from limits import RateLimitItemPerSecond
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

    strategies = {
        "fixed window": FixedWindowRateLimiter,
        "sliding window": MovingWindowRateLimiter,
        "counter": SlidingWindowCounterRateLimiter,
    }
    hit = strategies[kind](MemoryStorage()).hit
    items = [RateLimitItemPerSecond(rule.requests, rule.seconds) for rule in rules]
    if len(items) == 1:
        return Contender(hit, [(items[0], names[index]) for index in order])

    def ask(name: str) -> bool:
        return all([hit(item, name) for item in items])  # noqa: C419  a list is faster than a generator

    return Contender(ask, [(names[index],) for index in order])


def _throttled(kind: Kind, rules: Sequence[Rule], names: Sequence[str], order: Sequence[int]) -> Contender:
    from datetime import timedelta

    from throttled import MemoryStore as Store
    from throttled import Throttled, per_duration

    store = Store(options={"MAX_SIZE": 10_000_000})
    asks: list[Callable[[str], Any]] = [
        Throttled(
            using=kind.replace(" ", "_"),
            quota=per_duration(timedelta(seconds=rule.seconds), rule.requests, rule.requests),
            store=store,
            key_prefix=f"rule{at}",
        ).limit
        for at, rule in enumerate(rules)
    ]
    if len(asks) == 1:
        return Contender(asks[0], [(names[index],) for index in order])

    def ask(name: str) -> list[Any]:
        return [limit(name) for limit in asks]

    return Contender(ask, [(names[index],) for index in order])


def _pyrate(kind: Kind, rules: Sequence[Rule], names: Sequence[str], order: Sequence[int]) -> Contender:
    from pyrate_limiter import BucketFactory, Limiter, RateItem
    from pyrate_limiter.clocks import MonotonicClock

    now = MonotonicClock().now
    buckets = {name: _bucket(kind, rules) for name in names}

    class Factory(BucketFactory):
        def wrap_item(self, name: str, weight: int = 1) -> RateItem:
            return RateItem(name, now(), weight)

        def get(self, item: RateItem) -> Any:
            return buckets[item.name]

    return Contender(Limiter(Factory()).try_acquire, [(names[index], 1, False) for index in order])


def _pyrate_bare(kind: Kind, rules: Sequence[Rule], names: Sequence[str], order: Sequence[int]) -> Contender:
    from pyrate_limiter import RateItem
    from pyrate_limiter.clocks import MonotonicClock

    now = MonotonicClock().now
    puts = {name: _bucket(kind, rules).put for name in names}

    def ask(name: str) -> bool:
        return bool(puts[name](RateItem(name, now())))

    return Contender(ask, [(names[index],) for index in order])


def _bucket(kind: Kind, rules: Sequence[Rule]) -> Any:
    from pyrate_limiter import InMemoryBucket, Rate
    from pyrate_limiter.abstracts.algorithm import FixedWindow, TokenBucket
    from pyrate_limiter.buckets.state_bucket import StateBucket

    rates = [Rate(rule.requests, rule.seconds * 1000) for rule in rules]
    if kind == "token bucket":
        return StateBucket(rates, TokenBucket())
    return InMemoryBucket(rates, FixedWindow() if kind == "fixed window" else None)
