"""``limits`` in memory: ``hit``, and of a refusal ``get_window_stats`` for when to come back.

It decides one limit a call, so several limits are several calls, as Flask-Limiter and slowapi make them: until one refuses.
"""

from __future__ import annotations

from collections.abc import Sequence

import limits.storage.memory
import limits.strategies
from limits import RateLimitItemPerSecond
from limits.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from apishield.conformance.adapter import Adapter, Told
from apishield.core.model import SECOND_US, FixedWindow, SlidingWindow
from apishield.core.rate_limiter.parse import RateAlgorithm
from benchmarks.adapters.clock import StoppedTime


class _Limits(Adapter):
    simulated = True
    strategy: type[RateLimiter]
    algorithm: type[RateAlgorithm]

    def __init__(self, rules: Sequence[RateAlgorithm]) -> None:
        if not all(isinstance(rule, self.algorithm) for rule in rules):
            raise ValueError(f"{self.strategy.__name__} holds only limits of the kind {self.algorithm.__name__}.")
        self._clock = StoppedTime()
        self._clock.replace_in(limits.storage.memory, limits.strategies)
        self._items = [RateLimitItemPerSecond(rule.requests, rule.window_us // SECOND_US) for rule in rules]
        self._limiter = self.strategy(limits.storage.memory.MemoryStorage())

    def hit(self, key: str, cost: int, now_us: int) -> Told:
        self._clock.now_us = now_us
        for item in self._items:
            if not self._limiter.hit(item, key, cost=cost):
                reset_seconds, _ = self._limiter.get_window_stats(item, key)
                return False, max(0.0, reset_seconds - now_us / SECOND_US) if cost == 1 else None
        return True, None


class Fixed(_Limits):
    """Exact, in windows that begin with a first request."""

    strategy = FixedWindowRateLimiter
    algorithm = FixedWindow


class Moving(_Limits):
    """Exact: a log of all requests."""

    strategy = MovingWindowRateLimiter
    algorithm = SlidingWindow


class Counter(_Limits):
    """Two counters, the older weighted by what is left of it: an approximation, and documented as one."""

    strategy = SlidingWindowCounterRateLimiter
    algorithm = SlidingWindow
