"""Segments cover a period once; steps tile it in every zone."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import assume, given
from hypothesis import strategies as st

from apishield.analytics.periods import (
    Horizon,
    Period,
    Segment,
    coarsest_within,
    kept_step,
    place,
    previous,
    resolution,
    runs,
    segments,
    segments_of_steps,
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


@given(period=periods, step=st.sampled_from(Step), zone=zones)
def test_every_bucket_of_a_time_series_lies_whole_in_one_step(period: Period, step: Step, zone: ZoneInfo) -> None:
    assume(period.from_us < period.to_us)
    period = Period(max(period.from_us, period.to_us - 90 * step.seconds * SECOND_US), period.to_us)
    starts = steps(*period, step, zone)
    for segment in segments(*period, coarsest=coarsest_within(starts)):
        for bucket_s in range(segment.start_s, segment.end_s, segment.step.seconds):
            index = place(starts, bucket_s, segment.step)
            assert starts[index] <= bucket_s
            assert index + 1 == len(starts) or bucket_s + segment.step.seconds <= starts[index + 1]


@given(period=periods, step=st.sampled_from(Step), zone=zones)
def test_a_time_series_reads_few_buckets_each_whole_in_one_step_and_the_period_once(
    period: Period, step: Step, zone: ZoneInfo
) -> None:
    assume(period.from_us < period.to_us)
    period = Period(max(period.from_us, period.to_us - 90 * step.seconds * SECOND_US), period.to_us)
    starts = steps(*period, step, zone)
    found = segments_of_steps(*period, starts)
    whole = period.whole_minutes()
    assert_partition(found, whole.from_us // SECOND_US, whole.to_us // SECOND_US)
    for segment in found:
        for bucket_s in range(segment.start_s, segment.end_s, segment.step.seconds):
            index = place(starts, bucket_s, segment.step)
            assert starts[index] <= bucket_s
            assert index + 1 == len(starts) or bucket_s + segment.step.seconds <= starts[index + 1]
    if step is Step.DAY:  # 25 hours, and at the border of two days an hour in minutes
        assert buckets(found) <= len(starts) * (25 + 60) + 60


@given(period=periods, step=st.sampled_from(Step), zone=zones, days=days_kept)
def test_a_time_series_of_what_is_kept_reads_the_buckets_that_its_summary_reads(
    period: Period, step: Step, zone: ZoneInfo, days: tuple[int, int]
) -> None:
    assume(period.from_us < period.to_us)
    period = Period(max(period.from_us, period.to_us - 90 * step.seconds * SECOND_US), period.to_us)
    horizon = Horizon.at(NOW_S * SECOND_US, *days)
    whole = segments(*period, horizon)
    found = segments_of_steps(*period, steps(*period, step, zone), horizon)
    assert_partition(found, whole[0].start_s, whole[-1].end_s)
    for segment in found:
        kept_from_s = {Step.MINUTE: horizon.minutes_from_s, Step.HOUR: horizon.hours_from_s, Step.DAY: 0}[segment.step]
        assert segment.start_s >= kept_from_s


@given(period=periods, step=st.sampled_from((Step.MINUTE, Step.HOUR)), days=days_kept)
def test_every_point_of_a_time_series_begins_where_a_bucket_does_that_is_kept(
    period: Period, step: Step, days: tuple[int, int]
) -> None:
    assume(period.from_us < period.to_us)
    horizon = Horizon.at(NOW_S * SECOND_US, *days)
    step = kept_step(step, period.from_us, horizon)
    period = Period(period.from_us, min(period.to_us, period.from_us + 900 * step.seconds * SECOND_US))
    starts = steps(*period, step)
    for segment in segments_of_steps(*period, starts, horizon):
        for bucket_s in range(segment.start_s, segment.end_s, segment.step.seconds):
            at_s = starts[place(starts, bucket_s, segment.step)]
            in_it = at_s <= bucket_s and bucket_s + segment.step.seconds <= at_s + step.seconds
            assert in_it or bucket_s + segment.step.seconds > NOW_S  # of the present day: nothing lies behind now


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
