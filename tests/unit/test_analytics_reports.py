"""What the figures of reports mean."""

from __future__ import annotations

import pytest

from apishield.analytics.histogram import Histogram
from apishield.analytics.reports import Latency, error_rate, latency, percent_change


def test_an_error_rate_is_a_share_of_the_results_that_were_reported() -> None:
    assert error_rate(3, 12) == 0.25
    assert error_rate(0, 12) == 0
    assert error_rate(0, 0) is None


def test_latencies_are_in_milliseconds_and_unknown_without_results() -> None:
    histogram = Histogram()
    for _ in range(100):
        histogram.add(98)
    assert latency(histogram) == Latency(0.098, 0.098, 0.098)
    assert latency(None) == latency(Histogram()) == Latency(None, None, None)


@pytest.mark.parametrize(
    ("now", "before", "change"),
    [(150, 100, 50), (50, 100, -50), (0, 100, -100), (5, 0, None), (0, 0, None), (None, 3, None), (3, None, None)],
)
def test_a_change_has_no_percentage_where_there_was_nothing_before(
    now: float | None, before: float | None, change: float | None
) -> None:
    assert percent_change(now, before) == change
