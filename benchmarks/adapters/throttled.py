"""``throttled-py`` in memory: ``Throttled.limit``, whose result says when to come back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import throttled.utils
from throttled import MemoryStore, per_duration
from throttled import Throttled as Limiter

from apishield.conformance.adapter import Adapter, Told
from apishield.core.model import FixedWindow as FixedRule
from apishield.core.model import SlidingWindow as SlidingRule
from apishield.core.model import TokenBucket as BucketRule
from apishield.core.rate_limiter.parse import RateAlgorithm
from benchmarks.adapters.clock import StoppedTime


class _Throttled(Adapter):
    simulated = True
    using: str
    algorithm: type[RateAlgorithm]

    def __init__(self, rules: Sequence[RateAlgorithm]) -> None:
        if not all(isinstance(rule, self.algorithm) for rule in rules):
            raise ValueError(f"{self.using} holds only limits of the kind {self.algorithm.__name__}.")
        self._clock = StoppedTime()
        self._clock.replace_in(throttled.utils)
        store = MemoryStore(options={"MAX_SIZE": 10_000_000})  # its default would evict live counters
        self._limiters = [
            Limiter(
                using=self.using,
                quota=per_duration(
                    timedelta(microseconds=rule.window_us),
                    rule.requests,
                    rule.burst if isinstance(rule, BucketRule) else rule.requests,
                ),
                store=store,
                key_prefix=f"limit{at}",
            )
            for at, rule in enumerate(rules)
        ]

    def hit(self, key: str, cost: int, now_us: int) -> Told:
        self._clock.now_us = now_us
        for limiter in self._limiters:
            result = limiter.limit(key, cost)
            if result.limited:
                return False, result.state.retry_after
        return True, None


class Fixed(_Throttled):
    """Windows aligned to the epoch."""

    using = "fixed_window"
    resolution_seconds = 1.0
    algorithm = FixedRule


class Sliding(_Throttled):
    """Two counters, the older weighted by what is left of it: an approximation."""

    using = "sliding_window"
    algorithm = SlidingRule


class TokenBucket(_Throttled):
    """Counts whole seconds."""

    using = "token_bucket"
    resolution_seconds = 1.0
    algorithm = BucketRule


class LeakyBucket(_Throttled):
    """Counts whole seconds; admits what a token bucket would."""

    using = "leaking_bucket"
    resolution_seconds = 1.0
    algorithm = BucketRule


class Gcra(_Throttled):
    """The generic cell rate algorithm: a token bucket by another state."""

    using = "gcra"
    algorithm = BucketRule
