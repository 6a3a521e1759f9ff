"""APIShield's own limiter in memory: what the service and the middleware decide by."""

from __future__ import annotations

from collections.abc import Sequence

from apishield.conformance.adapter import Adapter, Told
from apishield.core.counter_keys import counter_key
from apishield.core.model import Counter, Limit, Verdict
from apishield.core.rate_limiter.parse import RateAlgorithm
from apishield.stores.memory import MemoryStore


class Memory(Adapter):
    """Any limits, all of them in one verdict."""

    simulated = True

    def __init__(self, rules: Sequence[RateAlgorithm]) -> None:
        self._limits = [Limit(id=f"lim_{at}", name=f"limit {at}", algorithm=rule) for at, rule in enumerate(rules)]
        self._now_us = 0
        self._store = MemoryStore(lambda: self._now_us)

    def hit(self, key: str, cost: int, now_us: int) -> Told:
        self._now_us = now_us
        counters = [Counter(counter_key("ten_1", "live", limit, {"key": key}), limit) for limit in self._limits]
        verdict = self._store.decide(counters, [cost] * len(counters))
        assert isinstance(verdict, Verdict)
        waits_us = [outcome.retry_after_us for outcome in verdict.outcomes if not outcome.admitted]
        if not waits_us or None in waits_us:
            return verdict.admitted, None
        return False, max(wait_us for wait_us in waits_us if wait_us is not None) / 1_000_000
