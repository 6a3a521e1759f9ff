"""The figures that reports show beside sums: shares, latencies, changes.

Owns: what each figure means. Does not own: which rows go into it (queries), how it is shown (``api``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from apishield.analytics.histogram import Histogram, Totals

SHARES: Final = (0.5, 0.95, 0.99)


class Latency(msgspec.Struct, frozen=True):
    """Latencies in milliseconds that half, 95 % and 99 % of the results do not exceed (each within 1 %); ``None`` without
    any result.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


def error_rate(failed: int, results: int) -> float | None:
    """The share of reported results whose status was 500 or more, from 0 to 1; ``None`` where none was reported.

    What the caller did wrong (400 … 499) and what was refused before the API saw it are no errors of the API.
    """
    return failed / results if results > 0 else None


def latency(counted: Histogram | Totals | None) -> Latency:
    """The quantiles that reports show."""
    if counted is None:
        return Latency()
    return Latency(*(None if found_us is None else found_us / 1_000 for found_us in counted.quantiles(SHARES)))


def percent_change(now: float | None, before: float | None) -> float | None:
    """By how many percent ``now`` is more (or, negative, less) than ``before``; ``None`` where there is nothing to compare
    with: ``before`` is 0, or one of them is not known.
    """
    return None if now is None or not before else (now - before) / before * 100
