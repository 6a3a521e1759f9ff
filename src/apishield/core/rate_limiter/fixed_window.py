"""Fixed window: so many units in each window aligned to the Unix epoch, then a clean slate.

Exact, and the cheapest of all: one sum and the instant at which it ends. Two full windows may meet at a boundary; a limit
that must hold in *any* interval is a sliding window.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from apishield.core.compiled import untracked
from apishield.core.model import FixedWindow
from apishield.core.outcome import Outcome
from apishield.core.rate_limiter import states


@mypyc_attr(acyclic=True)
class State(states.State):
    """Units ``taken`` in the window that ends at ``end_us``; ``seen_us`` is the last charge, before which no clock goes."""

    window_us: int = 0
    end_us: int = 0

    def __init__(self, rule: FixedWindow) -> None:
        self.rule, self.requests, self.window_us = rule, rule.requests, rule.window_us

    def fits(self, now_us: int, cost: int) -> bool:
        """Whether ``cost`` units more are within the limit."""
        return self._taken_at(now_us) + cost <= self.requests or not cost

    def charge(self, now_us: int, cost: int, check_id: str = "") -> Outcome:
        """Counts ``cost`` units, even past the limit, and says how the counter stands then."""
        if not cost:
            return self.look(now_us, 0, True)
        end_us = self.end_us
        if now_us < end_us:
            self.taken = taken = self.taken + cost
        else:
            self.taken = taken = cost
            self.end_us = end_us = self._end_of_window(now_us)
        self.seen_us = now_us
        return Outcome(True, self.requests - taken, 0, end_us - now_us)

    def look(self, now_us: int, cost: int, fits: bool) -> Outcome:
        """How the counter stands for a check that is not charged."""
        return outcome(self.requests, self.window_us, now_us, cost, fits, self._taken_at(now_us))

    def penalize(self, now_us: int, cost: int) -> None:
        """Counts a refused check: the window is full then."""
        self.charge(now_us, max(0, min(cost, self.requests - self._taken_at(now_us))))

    def refund(self, now_us: int, charged_at_us: int, cost: int) -> None:
        """Takes back ``cost`` units charged at ``charged_at_us``; nothing, once their window is over."""
        if self.end_us - self.window_us <= charged_at_us and now_us < self.end_us:
            self.taken = max(0, self.taken - cost)

    def adopt(self, rule: FixedWindow, now_us: int) -> None:
        """Goes on under changed numbers: the units used stay, in the new window that holds the last charge."""
        self.taken = self._taken_at(now_us)
        self.rule, self.requests, self.window_us = rule, rule.requests, rule.window_us
        self.end_us = self._end_of_window(self.seen_us)

    def expires_at_us(self) -> int:
        """From when on this state says no more than none at all."""
        return self.end_us

    def _taken_at(self, now_us: int) -> int:
        return self.taken if now_us < self.end_us else 0

    def _end_of_window(self, now_us: int) -> int:
        window_us = self.window_us
        return now_us - now_us % window_us + window_us


State = untracked(State)  # type: ignore[misc]


def outcome(requests: int, window_us: int, now_us: int, cost: int, fits: bool, used: int) -> Outcome:
    """Says what ``used`` units in the window around ``now_us`` mean for a check of ``cost``."""
    left_us = window_us - now_us % window_us
    retry_after_us = 0 if fits else left_us if cost <= requests else None
    return Outcome(fits, requests - used, retry_after_us, left_us)
