"""The limits that every contender is asked to hold: one, or five at once."""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

from apishield.core.model import SECOND_US, FixedWindow, SlidingWindow, TokenBucket

Kind = Literal["fixed window", "sliding window", "token bucket"]
KINDS: tuple[Kind, ...] = ("fixed window", "sliding window", "token bucket")


class Rule(NamedTuple):
    """So many requests in so many seconds; a token bucket's burst is as many."""

    requests: int
    seconds: int

    def algorithm(self, kind: Kind) -> FixedWindow | SlidingWindow | TokenBucket:
        """The rule as one of our algorithms."""
        window_us = self.seconds * SECOND_US
        if kind == "fixed window":
            return FixedWindow(self.requests, window_us)
        if kind == "sliding window":
            return SlidingWindow(self.requests, window_us)
        return TokenBucket(self.requests, window_us, self.requests)


ONE = (Rule(1_000_000, 3600),)
THREE = (Rule(100_000, 10), Rule(1_000_000, 3600), Rule(10_000_000, 86_400))
FIVE = (Rule(20_000, 1), Rule(100_000, 10), Rule(200_000, 60), Rule(1_000_000, 3600), Rule(10_000_000, 86_400))
USED_UP = (Rule(20, 3600),)
"""Small enough that a subject is refused after 20 checks, for as long as a benchmark lasts."""


def subjects_in_random_order(subjects: int, calls: int) -> list[int]:
    """Who asks, one after the other: the same for every contender and every run."""
    draw = random.Random(7)
    return [draw.randrange(subjects) for _ in range(calls)]
