"""What limits promise, computed the slow way: from the list of every unit that was ever charged.

Shares no code with the algorithms. Where an algorithm may err (a sliding window, by 0.1 % of its length, towards refusing)
the oracle says so; elsewhere it is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Literal
from zoneinfo import ZoneInfo

from apishield.core.model import Algorithm, Concurrency, FixedWindow, Quota, SlidingWindow, TokenBucket

Answer = Literal["admit", "refuse", "either"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Oracle:
    """One counter under one limit that never changes."""

    rule: Algorithm
    charges: list[tuple[int, int]] = field(default_factory=list)  # (when, units)

    def expects(self, now_us: int, cost: int) -> Answer:
        """Whether a check of ``cost`` must be admitted."""
        if cost == 0:
            return "admit"
        rule = self.rule
        if isinstance(rule, TokenBucket):
            return "admit" if self.missing_tokens(now_us) + cost <= rule.burst else "refuse"
        if isinstance(rule, SlidingWindow):
            if self.used_since(now_us - rule.window_us) + cost > rule.requests:
                return "refuse"
            lenient_us = math.ceil(rule.window_us / 1000)
            return (
                "admit" if self.used_since(now_us - rule.window_us - lenient_us) + cost <= rule.requests else "either"
            )
        return "admit" if self.used(now_us) + cost <= rule.requests else "refuse"

    def used(self, now_us: int) -> int:
        """Units that count now (of a sliding window: at least)."""
        rule = self.rule
        if isinstance(rule, FixedWindow):
            return sum(cost for at_us, cost in self.charges if at_us // rule.window_us == now_us // rule.window_us)
        if isinstance(rule, Concurrency):
            return self.used_since(now_us - rule.timeout_us)
        if isinstance(rule, Quota):
            return sum(cost for at_us, cost in self.charges if self._period(at_us) == self._period(now_us))
        assert isinstance(rule, SlidingWindow)
        return self.used_since(now_us - rule.window_us)

    def used_since(self, start_us: int) -> int:
        """Units charged after ``start_us``."""
        return sum(cost for at_us, cost in self.charges if at_us > start_us)

    def missing_tokens(self, now_us: int) -> Fraction:
        """What the bucket lacks, by replaying every charge."""
        rule = self.rule
        assert isinstance(rule, TokenBucket)
        missing, last_us = Fraction(0), 0
        for at_us, cost in [*self.charges, (now_us, 0)]:
            missing = max(Fraction(0), missing - Fraction((at_us - last_us) * rule.requests, rule.window_us)) + cost
            last_us = at_us
        return missing

    def worst_excess(self) -> Fraction:
        """By how much the busiest stretch went over what the limit allows; at most 0 where the limit was kept."""
        worst = Fraction(-self.rule.requests)
        for first, (start_us, _) in enumerate(self.charges):
            taken = 0
            for at_us, cost in self.charges[first:]:
                allowed = self._allowed(start_us, at_us)
                if allowed is None:
                    break
                taken += cost
                worst = max(worst, taken - allowed)
        return worst

    def _allowed(self, start_us: int, end_us: int) -> Fraction | None:
        """Units that may be charged from ``start_us`` to ``end_us``; ``None`` where no bound spans both."""
        rule = self.rule
        if isinstance(rule, TokenBucket):
            return rule.burst + Fraction(rule.requests * (end_us - start_us), rule.window_us)
        if isinstance(rule, SlidingWindow):
            spans = end_us - start_us < rule.window_us
        elif isinstance(rule, FixedWindow):
            spans = end_us // rule.window_us == start_us // rule.window_us
        elif isinstance(rule, Quota):
            spans = self._period(start_us) == self._period(end_us)
        else:
            spans = end_us - start_us < rule.timeout_us
        return Fraction(rule.requests) if spans else None

    def _period(self, at_us: int) -> str:
        assert isinstance(self.rule, Quota)
        local = (EPOCH + timedelta(microseconds=at_us)).astimezone(ZoneInfo(self.rule.time_zone))
        return local.strftime("%Y-%m-%d" if self.rule.period == "day" else "%Y-%m")
