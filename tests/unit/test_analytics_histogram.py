"""Latency histograms: the cases that one wants to see."""

from __future__ import annotations

import pytest

from apishield.analytics.histogram import MAX_VALUE_US, Histogram, HistogramError, sum_histograms


def test_an_empty_histogram_has_no_quantile_and_four_bytes() -> None:
    empty = Histogram()
    assert (empty.count, empty.quantile(0.5), empty.quantiles([0.5, 0.99])) == (0, None, [None, None])
    assert Histogram.from_bytes(empty.to_bytes()) == empty == sum_histograms([]).histogram()
    assert len(empty.to_bytes()) == 4


def test_zero_is_counted_apart_and_small_values_are_exact() -> None:
    for value_us in range(99):
        histogram = Histogram()
        histogram.add(value_us)
        assert histogram.quantile(0.5) == value_us


def test_ranks_are_those_of_the_share_as_it_is_written() -> None:
    histogram = Histogram()
    for value_us in range(100):
        histogram.add(value_us)
    assert histogram.quantiles([0, 0.07, 0.55, 0.95, 0.99]) == [0, 6, 54, 94, 98]


def test_what_takes_longer_than_a_day_counts_as_a_day() -> None:
    histogram = Histogram()
    histogram.add(MAX_VALUE_US * 50)
    assert histogram.quantile(1) == MAX_VALUE_US
    assert Histogram.from_bytes(histogram.to_bytes()) == histogram


@pytest.mark.parametrize("count", [1, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1])
def test_a_count_of_any_size_is_kept_whole(count: int) -> None:
    histogram = Histogram()
    histogram.add(7, count)
    assert Histogram.from_bytes(histogram.to_bytes()).count == count


def test_negative_values_and_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="-1 µs is negative"):
        Histogram().add(-1)
    with pytest.raises(ValueError, match="-2 is negative"):
        Histogram().add(1, -2)
    with pytest.raises(ValueError, match="from 0 to 1"):
        Histogram().quantile(1.1)
    with pytest.raises(ValueError, match="from 0 to 1"):
        sum_histograms([]).quantiles([-0.1])


def test_a_copy_goes_its_own_way() -> None:
    histogram = Histogram()
    histogram.add(5)
    copy = histogram.copy()
    copy.add(7)
    assert (histogram.count, copy.count) == (1, 2)


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (b"", "at least 4 bytes"),
        (b"\1\1\0", "at least 4 bytes"),
        (b"\2\1\0\0", "version 2"),
        (b"\1\3\0\0", "count of 3 bytes"),
        (b"\1\2\1\0\5\1", "can't hold 1 buckets"),
        (b"\1\1\0\1\5\1", "can't hold 256 buckets"),
        (b"\1\1\2\0\5\0\1\1", "must rise"),
        (b"\1\1\5\0" + b"\xff" * 5 + b"\1" * 5, "lie below"),
        (b"\1\1\1\0\5\1" + b"\1\1\1", "at least 4 bytes"),
    ],
)
def test_bytes_that_are_none_are_refused_with_the_reason_and_change_nothing(blob: bytes, why: str) -> None:
    histogram = Histogram()
    with pytest.raises(HistogramError, match=why):
        histogram.merge_bytes(blob)
    assert histogram.count == 0
