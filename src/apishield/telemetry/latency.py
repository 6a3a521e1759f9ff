"""Histograms of durations, in the buckets that Prometheus sees."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

# From a decision in memory to a store that hangs until its time-out; in seconds.
LATENCY_BUCKETS: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip


class Latency:
    """A histogram of durations: one comparison chain and two additions a measurement."""

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Adds one measurement."""
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.sum_seconds += seconds

    def observe_many(self, seconds: float, count: int) -> None:
        """Adds ``count`` measurements of the same duration (a batch that was decided together)."""
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += count
        self.sum_seconds += seconds * count

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        return cumulated(self.counts)


def cumulated(counts: Sequence[float]) -> list[tuple[str, float]]:
    """Counts by bucket, as counts of all that is not above each bucket's bound."""
    total, found = 0.0, []
    for bound, count in zip((*map(str, LATENCY_BUCKETS), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, total))
    return found
