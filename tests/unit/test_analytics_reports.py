"""What the figures of reports mean."""

from __future__ import annotations

import pytest

from apishield.analytics.histogram import Histogram
from apishield.analytics.reports import Latency, Totals, error_rate, latency, percent_change, top, totals
from apishield.analytics.rollup import OTHER, Measures


def served(requests: int, *, good: int = 0, failed: int = 0) -> Totals:
    measures = Measures(requests=requests, results=good + failed, status_2xx=good, status_5xx=failed)
    return totals([("ok", measures)])


def test_totals_tell_what_was_allowed_from_what_was_refused() -> None:
    found = totals(
        [
            ("ok", Measures(requests=10, cost=12, results=8, status_2xx=6, status_5xx=2)),
            ("ok", Measures(requests=1, cost=1)),
            ("rate_limited", Measures(requests=5, status_4xx=5)),
            ("store_unavailable", Measures(requests=2, status_5xx=2)),
        ]
    )
    assert (found.requests, found.allowed, found.refused) == (18, 11, 7)
    assert found.refused_by_code == {"rate_limited": 5, "store_unavailable": 2}
    assert found.served.cost == 13
    assert found.error_rate == 0.25  # refusals are no errors of the API, whatever their status


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


def test_the_top_and_the_sum_of_all_others_make_the_whole() -> None:
    groups = {"a": served(5), "b": served(9), "c": served(1), "d": served(5)}
    found = top(groups, 2)
    assert [(label, group.requests) for label, group in found.rows] == [("b", 9), ("a", 5)]
    assert found.other is not None
    assert (found.other.requests, found.others) == (6, 2)


def test_nothing_else_is_no_other() -> None:
    assert top({"a": served(5)}, 2).other is None
    assert top({}, 2).rows == []


def test_what_the_ledger_called_other_is_never_a_row() -> None:
    found = top({"a": served(5), OTHER: served(1000)}, 10)
    assert [label for label, _ in found.rows] == ["a"]
    assert found.other is not None
    assert found.other.requests == 1000


def test_groups_of_which_the_order_knows_nothing_come_last() -> None:
    groups = {
        "silent": served(100),
        "good": served(5, good=5),
        "bad": served(5, failed=5),
    }
    found = top(groups, 3, order=lambda group: group.error_rate)
    assert [label for label, _ in found.rows] == ["bad", "good", "silent"]


def test_to_sum_the_others_changes_none_of_them() -> None:
    groups = {"a": served(5), "b": served(3), "c": served(2)}
    top(groups, 1)
    assert groups["b"].requests == 3
