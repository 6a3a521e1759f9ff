"""The figures that reports show, made of measures: totals, shares, latencies, changes, the top of a list.

Owns: what each figure means. Does not own: which rows go into it (queries), how it is shown (``api``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, TypeVar

import msgspec

from apishield.analytics.histogram import Histogram
from apishield.analytics.rollup import ADMITTED, OTHER, Measures

SHARES: Final = (0.5, 0.95, 0.99)


class Latency(msgspec.Struct, frozen=True):
    """Latencies in milliseconds that half, 95 % and 99 % of the results do not exceed (each within 1 %); ``None`` without
    any result.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Totals(msgspec.Struct):
    """All that was counted of some series.

    ``requests = allowed + refused``. ``served`` are the measures of admitted checks: only they have a cost, an error rate and
    a latency, since what we refused the API never saw.
    """

    requests: int = 0
    allowed: int = 0
    refused_by_code: dict[str, int] = {}
    served: Measures = msgspec.field(default_factory=Measures)

    def add(self, code: str, measures: Measures) -> None:
        """Adds what was counted under a decision's ``code``."""
        self.requests += measures.requests
        if code == ADMITTED:
            self.allowed += measures.requests
            self.served.add(measures)
        else:
            self.refused_by_code[code] = self.refused_by_code.get(code, 0) + measures.requests

    def merge(self, other: Totals) -> None:
        """Adds all that ``other`` counts."""
        self.requests += other.requests
        self.allowed += other.allowed
        self.served.add(other.served)
        for code, count in other.refused_by_code.items():
            self.refused_by_code[code] = self.refused_by_code.get(code, 0) + count

    @property
    def refused(self) -> int:
        """How many requests were refused, for whatever reason."""
        return self.requests - self.allowed

    @property
    def error_rate(self) -> float | None:
        """See ``error_rate``."""
        return error_rate(self.served.status_5xx, self.served.results)

    @property
    def latency(self) -> Latency:
        """Of the results that were reported."""
        return latency(self.served.latency)


def totals(rows: Iterable[tuple[str, Measures]]) -> Totals:
    """The sum of measures that were counted under the codes beside them."""
    summed = Totals()
    for code, measures in rows:
        summed.add(code, measures)
    return summed


def error_rate(failed: int, results: int) -> float | None:
    """The share of reported results whose status was 500 or more, from 0 to 1; ``None`` where none was reported.

    What the caller did wrong (400 … 499) and what was refused before the API saw it are no errors of the API.
    """
    return failed / results if results > 0 else None


def latency(histogram: Histogram | None) -> Latency:
    """The quantiles that reports show."""
    if histogram is None:
        return Latency()
    return Latency(*(None if found_us is None else found_us / 1_000 for found_us in histogram.quantiles(SHARES)))


def percent_change(now: float | None, before: float | None) -> float | None:
    """By how many percent ``now`` is more (or, negative, less) than ``before``; ``None`` where there is nothing to compare
    with: ``before`` is 0, or one of them is not known.
    """
    return None if now is None or not before else (now - before) / before * 100


Label = TypeVar("Label")


class Top(msgspec.Struct, Generic[Label], frozen=True):
    """The largest of many, in order; ``other`` is the sum of the ``others`` that are not among them, or ``None``.

    ``others`` counts labels; that of all which the ledger itself put under ``OTHER`` counts as one.
    """

    rows: list[tuple[Label, Totals]]
    other: Totals | None
    others: int


def top(
    groups: Mapping[Label, Totals], most: int, order: Callable[[Totals], float | None] = lambda group: group.requests
) -> Top[Label]:
    """The ``most`` groups that are largest by ``order``, and the sum of all others.

    Groups of which ``order`` knows nothing (``None``) come last; among equals the one with more requests comes first, then
    the label decides, so that the same question has the same answer. ``OTHER`` is never a row of its own.
    """

    def rank(item: tuple[Label, Totals]) -> tuple[bool, float, int, str]:
        label, group = item
        size = order(group)
        return (size is None, -(size or 0), -group.requests, str(label))

    named = sorted((item for item in groups.items() if item[0] != OTHER), key=rank)
    rest = [group for _, group in named[most:]] + [group for label, group in groups.items() if label == OTHER]
    if not rest:
        return Top(named, None, 0)
    other = Totals()
    for group in rest:
        other.merge(group)
    return Top(named[:most], other, len(rest))
