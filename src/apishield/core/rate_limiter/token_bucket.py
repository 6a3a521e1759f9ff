"""Token bucket: short bursts up to a ceiling, a steady rate on average.

A bucket holds at most ``burst`` units and gains ``requests`` units every ``window_us``. The state is how much of it was
used up and when, in units of 1/window_us: one microsecond then gives back exactly ``requests``, and nothing is ever rounded.
Admits at most ``burst + requests * t / window_us`` units in any stretch of ``t`` microseconds.

Source: the leaky bucket as a meter, ITU-T I.371 (2004), annex A.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from apishield.core.compiled import untracked
from apishield.core.model import TokenBucket
from apishield.core.outcome import Outcome
from apishield.core.rate_limiter import states


@mypyc_attr(acyclic=True)
class State(states.State):
    """``used`` units of 1/window_us were missing from the full bucket at ``seen_us``, before which no clock goes.

    ``taken`` is as much below ``requests`` as the bucket held whole units then, so that all states are asked alike.
    """

    window_us: int = 0
    burst: int = 0
    used: int = 0

    def __init__(self, rule: TokenBucket) -> None:
        self._follow(rule)
        self.taken = rule.requests - rule.burst

    def fits(self, now_us: int, cost: int) -> bool:
        """Whether the bucket holds ``cost`` units."""
        return self._used_at(now_us) + cost * self.window_us <= self.burst * self.window_us or not cost

    def charge(self, now_us: int, cost: int, check_id: str = "") -> Outcome:
        """Takes ``cost`` units out, even more than there are, and says how the counter stands then."""
        if not cost:
            return self.look(now_us, 0, True)
        window_us, requests = self.window_us, self.requests
        used = self.used - (now_us - self.seen_us) * requests
        self.used = used = cost * window_us + used if used > 0 else cost * window_us
        missing = -used  # so that floor divisions round what is missing up
        free = self.burst + missing // window_us
        self.taken = requests - free
        self.seen_us = now_us
        return Outcome(True, free, 0, -(missing // requests))

    def look(self, now_us: int, cost: int, fits: bool) -> Outcome:
        """How the counter stands for a check that is not charged."""
        return outcome(self.requests, self.window_us, self.burst, self._used_at(now_us), cost, fits)

    def penalize(self, now_us: int, cost: int) -> None:
        """Counts a refused check: it takes what there is."""
        used = self._used_at(now_us)
        self._use(now_us, max(used, min(used + cost * self.window_us, self.burst * self.window_us)))

    def refund(self, now_us: int, charged_at_us: int, cost: int) -> None:
        """Gives back what the refill since ``charged_at_us`` has not given back already."""
        used = self._used_at(now_us)
        if used:
            owed = max(0, cost * self.window_us - max(0, now_us - charged_at_us) * self.requests)
            self._use(now_us, max(0, used - owed))

    def adopt(self, rule: TokenBucket, now_us: int) -> None:
        """Goes on under changed numbers: the tokens used stay used (a fraction rounded up)."""
        used = self._used_at(now_us)
        if rule.window_us != self.window_us:
            used = -(-used * rule.window_us // self.window_us)
        self._follow(rule)
        self._use(now_us if used else self.seen_us, used)

    def expires_at_us(self) -> int:
        """From when on this state says no more than none at all: when the bucket is full."""
        return self.seen_us - (-self.used // self.requests)

    def _used_at(self, now_us: int) -> int:
        used = self.used - (now_us - self.seen_us) * self.requests
        return used if used > 0 else 0

    def _use(self, now_us: int, used: int) -> None:
        """Goes on from ``used`` at ``now_us``."""
        self.seen_us, self.used = now_us, used
        self.taken = self.requests - (self.burst * self.window_us - used) // self.window_us

    def _follow(self, rule: TokenBucket) -> None:
        self.rule, self.requests, self.window_us, self.burst = rule, rule.requests, rule.window_us, rule.burst


State = untracked(State)  # type: ignore[misc]


def outcome(requests: int, window_us: int, burst: int, used: int, cost: int, fits: bool) -> Outcome:
    """Says what ``used`` units of 1/window_us, missing from the full bucket, mean for a check of ``cost``."""
    left = burst * window_us - used
    if fits:
        retry_after_us: int | None = 0
    elif cost > burst:
        retry_after_us = None
    else:
        retry_after_us = -((left - cost * window_us) // requests)  # rounded up: refused just before, admitted at it
    return Outcome(fits, left // window_us, retry_after_us, -(-used // requests))
