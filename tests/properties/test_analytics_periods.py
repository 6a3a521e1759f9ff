"""Segments cover a period once; steps tile it in every zone."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import assume, given
from hypothesis import strategies as st

from apishield.analytics.periods import (
    Horizon,
    Period,
    Segment,
    moves,
    place,
    previous,
    resolution,
    runs,
    segments,
    step_for,
    steps,
)
from apishield.analytics.steps import DAY_S, SECOND_US, Step, ceil, floor

NOW_S = 1_795_000_000
zones = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)
instants_us = st.integers(NOW_S - 200 * DAY_S, NOW_S + 3 * DAY_S).flatmap(
    lambda at_s: st.sampled_from([at_s * SECOND_US, at_s * SECOND_US + 1, floor(at_s, Step.DAY) * SECOND_US])
)
periods = st.tuples(instants_us, instants_us).map(lambda pair: Period(min(pair), max(pair)))
days_kept = st.tuples(st.integers(0, 10), st.integers(10, 100))


def assert_partition(found: list[Segment], start_s: int, end_s: int) -> None:
    """Segments follow each other from ``start_s`` to ``end_s``, each on borders of its own step."""
    assert [segment.start_s for segment in found] == [start_s, *(segment.end_s for segment in found[:-1])]
    assert found[-1].end_s == end_s
    for segment in found:
        assert segment.start_s < segment.end_s
        assert segment.start_s % segment.step.seconds == segment.end_s % segment.step.seconds == 0


def buckets(found: list[Segment]) -> int:
    return sum((segment.end_s - segment.start_s) // segment.step.seconds for segment in found)


@given(period=periods)
def test_segments_partition_the_minutes_of_a_period(period: Period) -> None:
    assume(period.from_us < period.to_us)
    whole = period.whole_minutes()
    assert_partition(segments(*period), whole.from_us // SECOND_US, whole.to_us // SECOND_US)


@given(period=periods)
def test_no_cover_of_a_period_has_fewer_buckets(period: Period) -> None:
    # Every bucket that lies whole in the period but in no longer such bucket is needed.
    assume(period.from_us < period.to_us)
    whole = period.whole_minutes()
    start_s, end_s = whole.from_us // SECOND_US, whole.to_us // SECOND_US

    def inside(step: Step) -> int:
        return max(0, floor(end_s, step) - ceil(start_s, step))

    days, hours, minutes = inside(Step.DAY), inside(Step.HOUR), end_s - start_s
    assert buckets(segments(*period)) == days // DAY_S + (hours - days) // 3600 + (minutes - hours) // 60


@given(period=periods, days=days_kept, coarsest=st.sampled_from(Step))
def test_with_a_horizon_only_kept_buckets_are_read_and_none_of_the_period_is_missing(
    period: Period, days: tuple[int, int], coarsest: Step
) -> None:
    horizon = Horizon.at(NOW_S * SECOND_US, *days)
    kept_days = {Step.MINUTE: days[0], Step.HOUR: days[1]}
    assume(period.from_us < period.to_us)
    whole = period.whole_minutes()
    start_s, end_s = whole.from_us // SECOND_US, whole.to_us // SECOND_US
    found = segments(*period, horizon, coarsest)
    assert found[0].start_s <= start_s
    assert found[-1].end_s >= end_s
    assert_partition(found, found[0].start_s, found[-1].end_s)
    for segment in found:
        age_s = horizon.now_s - segment.start_s
        assert segment.step is Step.DAY or age_s <= kept_days[segment.step] * DAY_S
        assert segment.step.seconds >= horizon.finest(segment.start_s).seconds
        assert segment.step.seconds <= max(coarsest.seconds, horizon.finest(segment.start_s).seconds)
    # An edge is moved no further than to the next bucket that is kept, or, in the present, to the end of the day.
    assert start_s - found[0].start_s < horizon.finest(start_s).seconds
    if end_s < horizon.now_s:
        assert found[-1].end_s - end_s < horizon.finest(end_s).seconds
        exact = (found[0].start_s, found[-1].end_s) == (start_s, end_s)
        assert exact is (resolution(*period, horizon) is Step.MINUTE)
    else:
        assert found[-1].end_s == ceil(end_s, Step.DAY)


@given(period=periods, step=st.sampled_from(Step), zone=zones)
def test_steps_tile_the_period_in_every_zone(period: Period, step: Step, zone: ZoneInfo) -> None:
    assume(period.from_us < period.to_us)
    period = Period(max(period.from_us, period.to_us - 900 * step.seconds * SECOND_US), period.to_us)
    starts = steps(*period, step, zone)
    whole = period.whole_minutes()
    assert starts[0] <= whole.from_us // SECOND_US
    assert starts[-1] < whole.to_us // SECOND_US
    longest = {Step.DAY: 25 * 3600, Step.HOUR: 5400, Step.MINUTE: 60}[step]
    assert all(0 < later - earlier <= longest for earlier, later in pairwise(starts))
    assert whole.from_us // SECOND_US - starts[0] < longest
    assert whole.to_us // SECOND_US - starts[-1] <= longest
    if step is Step.DAY:
        days = [datetime.fromtimestamp(start_s, zone).date() for start_s in starts]
        before = [datetime.fromtimestamp(start_s - 1, zone).date() for start_s in starts]
        assert all(earlier < day for earlier, day in zip(before, days, strict=True))
    if step is Step.HOUR:
        assert all(datetime.fromtimestamp(start_s, zone).minute == 0 for start_s in starts)


@given(period=periods, step=st.sampled_from(Step), zone=zones, days=st.none() | days_kept)
def test_a_time_series_counts_all_that_is_kept_once_and_each_where_its_middle_lies(
    period: Period, step: Step, zone: ZoneInfo, days: tuple[int, int] | None
) -> None:
    """What is read and what is moved, added up over the shortest buckets that are kept."""
    assume(period.from_us < period.to_us)
    period = Period(max(period.from_us, period.to_us - 4 * step.seconds * SECOND_US), period.to_us)
    horizon = None if days is None else Horizon.at(NOW_S * SECOND_US, *days)
    starts = steps(*period, step, zone)
    parts = segments(*period, horizon, step)
    counted: dict[tuple[int, int], int] = defaultdict(int)
    for part in parts:
        for bucket_s in buckets_of(part):
            for inner_s, _ in shortest(bucket_s, part.step, horizon):
                counted[inner_s, place(starts, bucket_s, part.step)] += 1
    for part in moves(parts, starts, horizon):
        around = part.step.around
        for bucket_s in buckets_of(part):
            assert horizon is None or part.step.seconds >= horizon.finest(bucket_s).seconds  # it is still there
            for inner_s, _ in shortest(bucket_s, part.step, horizon):
                counted[inner_s, place(starts, bucket_s, part.step)] += 1
                counted[inner_s, place(starts, floor(bucket_s, around), around)] -= 1
    expected = {
        (inner_s, place(starts, inner_s, step)): 1
        for part in parts
        for bucket_s in buckets_of(part)
        for inner_s, step in shortest(bucket_s, part.step, horizon)
    }
    assert {bucket: times for bucket, times in counted.items() if times} == expected


@given(period=periods, zone=zones)
def test_a_day_of_any_zone_costs_a_row_and_at_most_half_a_day_of_hours_and_half_an_hour_of_minutes(
    period: Period, zone: ZoneInfo
) -> None:
    assume(period.from_us < period.to_us)
    starts = steps(*period, Step.DAY, zone)
    days = [part for part in segments(*period) if part.step is Step.DAY]
    assert buckets(moves(days, starts)) <= len(starts) * (12 + 30)


def buckets_of(part: Segment) -> range:
    return range(part.start_s, part.end_s, part.step.seconds)


def shortest(bucket_s: int, step: Step, horizon: Horizon | None) -> list[tuple[int, Step]]:
    """The shortest buckets that are kept of those in a bucket of ``step``, each with its own step."""
    found: list[tuple[int, Step]] = []
    at_s = bucket_s
    while at_s < bucket_s + step.seconds:
        finest = Step.MINUTE if horizon is None else horizon.finest(at_s)
        shorter = min(finest, step, key=lambda step: step.seconds)
        found.append((at_s, shorter))
        at_s += shorter.seconds
    return found


@given(period=periods, step=st.sampled_from(Step), zone=zones, bucket=st.sampled_from(Step))
def test_runs_tell_the_place_of_every_bucket(period: Period, step: Step, zone: ZoneInfo, bucket: Step) -> None:
    assume(period.from_us < period.to_us)
    starts = steps(max(period.from_us, period.to_us - 90 * step.seconds * SECOND_US), period.to_us, step, zone)
    for bucket_s in range(floor(starts[0], bucket) - bucket.seconds, starts[-1] + DAY_S, bucket.seconds):
        middle_s = bucket_s + bucket.seconds // 2
        run = next((run for run in reversed(runs(starts)) if middle_s >= run.start_s), None)
        told = 0 if run is None else min(run.first + (middle_s - run.start_s) // run.seconds, len(starts) - 1)
        assert told == place(starts, bucket_s, bucket)


@given(period=periods, zone=zones, days=days_kept)
def test_the_step_that_is_proposed_makes_no_more_points_than_allowed(
    period: Period, zone: ZoneInfo, days: tuple[int, int]
) -> None:
    step = step_for(*period, Horizon.at(NOW_S * SECOND_US, *days))
    assert len(steps(*period, step, zone)) <= 1_000


@given(period=periods)
def test_the_previous_period_is_as_long_and_touches(period: Period) -> None:
    before = previous(period)
    assert before.to_us == period.from_us
    assert before.to_us - before.from_us == period.to_us - period.from_us
