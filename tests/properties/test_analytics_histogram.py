"""Latency histograms: within 1 % of the truth, however they are cut, summed or stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.analytics.histogram import (
    BUCKETS,
    MAX_VALUE_US,
    Histogram,
    HistogramError,
    bucket_of,
    sum_histograms,
    sum_moved,
)

# Uniform over magnitudes, not over numbers: latencies are small, and so are the buckets that are hard to get right.
values_us = st.integers(0, 37).flatmap(lambda bits: st.integers(0, min(2**bits, MAX_VALUE_US)))
samples = st.lists(values_us, max_size=200)
SHARES = (0, 0.5, 0.95, 0.99, 1)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value_us in values:
        histogram.add(value_us)
    return histogram


@given(values=st.lists(values_us, min_size=1, max_size=200), thousandths=st.integers(0, 1000))
def test_any_quantile_is_within_one_percent_of_the_exact_one(values: list[int], thousandths: int) -> None:
    exact = sorted(values)[max(1, -(-thousandths * len(values) // 1000)) - 1]  # nearest rank
    found = histogram_of(values).quantile(thousandths / 1000)
    assert found is not None
    assert abs(found - exact) * 100 <= exact


def test_every_bucket_is_read_within_one_percent_at_both_of_its_ends() -> None:
    histogram, value_us, seen = Histogram(), 0, 0
    while value_us <= MAX_VALUE_US:
        one = Histogram()
        one.add(value_us)
        middle = one.quantile(1)
        assert middle is not None
        high = min(middle * 100 // 99, MAX_VALUE_US)
        assert bucket_of(value_us) == bucket_of(high) == seen
        assert (middle - value_us) * 100 <= value_us
        assert (high - middle) * 100 <= high
        histogram.merge(one)
        value_us, seen = high + 1, seen + 1
    assert seen == BUCKETS == histogram.count
    assert len(histogram.to_bytes()) < 2_300  # the most that a row can hold, at counts below 256


@given(a=samples, b=samples, c=samples)
def test_a_merge_is_the_histogram_of_all_values_in_any_order(a: list[int], b: list[int], c: list[int]) -> None:
    whole = histogram_of(a + b + c)
    left, right = histogram_of(a), histogram_of(c)
    left.merge(histogram_of(b))
    left.merge(histogram_of(c))
    right.merge(histogram_of(b))
    right.merge(histogram_of(a))
    assert left == right == whole
    assert left.count == len(a + b + c)


@given(parts=st.lists(samples, max_size=6))
def test_sums_of_stored_histograms_are_those_of_the_values(parts: list[list[int]]) -> None:
    blobs = [histogram_of(part).to_bytes() for part in parts]
    whole = histogram_of([value for part in parts for value in part])
    merged = Histogram()
    for blob in blobs:
        merged.merge_bytes(blob)
    assert sum_histograms(blobs).histogram() == merged == whole
    if blobs:  # a database adds them by writing one behind the other
        joined = b"".join(blobs)
        assert Histogram.from_bytes(joined) == sum_histograms([joined]).histogram() == whole


@given(parts=st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 3), st.lists(values_us, max_size=20))))
def test_what_is_moved_from_one_sum_to_another_counts_there_and_the_rest_is_left_exactly(
    parts: list[tuple[int, int | None, list[int]]],
) -> None:
    held: dict[int, list[int]] = {key: [] for part in parts for key in part[:2] if key is not None}
    given_to: list[tuple[int, int | None, bytes]] = []
    for key, out_of, values in parts:
        held[key] += values
        given_to.append((key, out_of, histogram_of(values).to_bytes()))
        if out_of is not None:  # it lies there beside others, in a sum of all
            given_to.append((out_of, None, histogram_of([*values, 7]).to_bytes()))
            held[out_of] += [7]
    expected = {key: histogram_of(values) for key, values in held.items()}
    for order in (given_to, list(reversed(given_to))):
        found = sum_moved(order)
        assert {key: totals.histogram() for key, totals in found.items()} == expected
        assert {key: totals.quantiles(SHARES) for key, totals in found.items()} == {
            key: histogram.quantiles(SHARES) for key, histogram in expected.items()
        }


@given(there=samples, moved=samples)
def test_what_was_never_added_can_not_be_taken_away(there: list[int], moved: list[int]) -> None:
    found = sum_moved([("a", None, histogram_of(there).to_bytes()), ("b", "a", histogram_of(moved).to_bytes())])
    assert found["b"].histogram() == histogram_of(moved)
    left = histogram_of(there).counts
    for bucket, count in histogram_of(moved).counts.items():
        left[bucket] = max(0, left.get(bucket, 0) - count)
    rest = Histogram({bucket: count for bucket, count in left.items() if count})
    assert found["a"].histogram() == rest
    assert found["a"].quantiles(SHARES) == rest.quantiles(SHARES)


@given(parts=st.lists(samples, max_size=4), thousandths=st.lists(st.integers(0, 1000), max_size=5))
def test_totals_have_the_quantiles_of_all_their_values(parts: list[list[int]], thousandths: list[int]) -> None:
    shares = [each / 1000 for each in thousandths]
    whole = histogram_of([value for part in parts for value in part])
    assert sum_histograms(histogram_of(part).to_bytes() for part in parts).quantiles(shares) == whole.quantiles(shares)


@given(counts=st.dictionaries(values_us, st.integers(0, 63).flatmap(lambda bits: st.integers(1, 2**bits)), max_size=30))
def test_bytes_give_the_same_histogram_back_and_equal_ones_have_equal_bytes(counts: dict[int, int]) -> None:
    histogram, backwards = Histogram(), Histogram()
    for value_us, count in counts.items():
        histogram.add(value_us, count)
    for value_us, count in reversed(counts.items()):
        backwards.add(value_us, count)
    if all(count < 2**64 for count in histogram.counts.values()):
        assert Histogram.from_bytes(histogram.to_bytes()) == histogram
        assert backwards.to_bytes() == histogram.to_bytes()


@given(
    blob=st.binary(max_size=80)
    | st.builds(bytes.__add__, st.sampled_from([b"\1\1\2\0", b"\1\2\1\0", b"\1\1\0\0"]), st.binary(max_size=80))
)
def test_other_bytes_are_refused_or_read_never_anything_else(blob: bytes) -> None:
    try:
        histogram = Histogram.from_bytes(blob)
    except HistogramError:
        with pytest.raises(HistogramError):
            sum_histograms([blob])
        return
    assert all(0 <= bucket < BUCKETS and count > 0 for bucket, count in histogram.counts.items())
    assert sum_histograms([blob]).histogram() == histogram
