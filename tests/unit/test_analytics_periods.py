"""How a query's period is read, covered and cut into steps."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from apishield.analytics.periods import (
    Horizon,
    Period,
    Run,
    Segment,
    kept_step,
    moves,
    parse_instant,
    parse_period,
    parse_zone,
    place,
    previous,
    resolution,
    runs,
    segments,
    step_for,
    steps,
)
from apishield.analytics.steps import SECOND_US, Step

MINUTE, HOUR, DAY = Step.MINUTE, Step.HOUR, Step.DAY
BERLIN = ZoneInfo("Europe/Berlin")


def s(text: str, zone: ZoneInfo | None = None) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone or UTC).timestamp())


def us(text: str) -> int:
    return s(text) * SECOND_US


NOW_US = us("2026-11-23T18:00:30")


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("now", "2026-11-23T18:00:30"),
        ("now-24h", "2026-11-22T18:00:30"),
        ("now-90s", "2026-11-23T17:59:00"),
        ("now-15m", "2026-11-23T17:45:30"),
        ("now-7d", "2026-11-16T18:00:30"),
        ("now-2w", "2026-11-09T18:00:30"),
        ("now+1h", "2026-11-23T19:00:30"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00"),
        ("2026-11-23t10:00:00z", "2026-11-23T10:00:00"),
        ("2026-11-23T10:00:00+05:30", "2026-11-23T04:30:00"),
        ("2026-11-23", "2026-11-23T00:00:00"),
    ],
)
def test_an_instant_is_relative_or_as_in_rfc_3339(text: str, instant: str) -> None:
    assert parse_instant(text, NOW_US) == us(instant)


def test_fractions_of_a_second_are_kept_to_the_microsecond() -> None:
    assert parse_instant("2026-11-23T10:00:00.123456789Z", NOW_US) == us("2026-11-23T10:00:00") + 123_456


def test_a_date_is_its_midnight_in_the_zone_of_the_question() -> None:
    assert parse_instant("2026-07-01", NOW_US, BERLIN) == us("2026-06-30T22:00:00")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "now-",
        "now-1",
        "now-1y",
        "now -1h",
        "now-1.5h",
        "NOW",
        "1700000000",
        "2026-11-23T10:00:00",
        "2026-13-01",
        "2026-02-30T00:00:00Z",
        "2026-11-23 10:00:00Z",
        "2026-W47",
        "\u0662\u0660\u0662\u0666-11-23",  # digits, but not of ASCII
        "now-9999999999h",
    ],
)
def test_what_is_no_instant_is_refused_with_the_value_and_the_fix(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339") as raised:
        parse_instant(text, NOW_US)
    assert repr(text) in str(raised.value)


def test_a_plus_that_a_url_made_a_blank_is_explained() -> None:
    with pytest.raises(ValueError, match="%2B"):
        parse_instant("2026-11-23T10:00:00 05:30", NOW_US)


@pytest.mark.parametrize("text", ["now-999999999w", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "0001-01-01"])
def test_an_instant_beyond_all_bounds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="before 1970 or after 2200"):
        parse_instant(text, NOW_US)


def test_a_long_value_is_not_shown_whole() -> None:
    with pytest.raises(ValueError, match="is no instant") as raised:
        parse_instant("x" * 5000, NOW_US)
    assert len(str(raised.value)) < 300


def test_a_period_is_the_last_24_hours_unless_it_says_otherwise() -> None:
    assert parse_period(None, None, NOW_US) == (us("2026-11-22T18:00:30"), NOW_US)
    assert parse_period(None, "2026-11-20", NOW_US) == (us("2026-11-19T00:00:00"), us("2026-11-20T00:00:00"))
    assert parse_period("now-1h", None, NOW_US) == (us("2026-11-23T17:00:30"), NOW_US)
    assert parse_period("now", "now", NOW_US) == (NOW_US, NOW_US)
    with pytest.raises(ValueError, match=r"from \('now'\) lies after to \('now-1h'\)"):
        parse_period("now", "now-1h", NOW_US)


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b", "x" * 5000]
)
def test_an_unknown_zone_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(ValueError, match="Europe/Berlin"):
        parse_zone(name)


def test_the_previous_period_ends_where_this_one_begins() -> None:
    assert previous(Period(500, 700)) == (300, 500)
    assert previous(Period(0, 700)) == (0, 0)


def test_a_period_is_covered_by_days_inside_then_hours_then_minutes() -> None:
    assert segments(us("2026-11-19T22:58:30"), us("2026-11-23T01:01:00")) == [
        Segment(MINUTE, s("2026-11-19T22:58"), s("2026-11-19T23:00")),
        Segment(HOUR, s("2026-11-19T23:00"), s("2026-11-20T00:00")),
        Segment(DAY, s("2026-11-20T00:00"), s("2026-11-23T00:00")),
        Segment(HOUR, s("2026-11-23T00:00"), s("2026-11-23T01:00")),
        Segment(MINUTE, s("2026-11-23T01:00"), s("2026-11-23T01:01")),
    ]


def test_an_empty_period_has_no_segments_and_a_moment_has_one_minute() -> None:
    assert segments(NOW_US, NOW_US) == []
    assert segments(NOW_US, NOW_US - 1) == []
    assert segments(NOW_US, NOW_US + 1) == [Segment(MINUTE, s("2026-11-23T18:00"), s("2026-11-23T18:01"))]


def test_a_period_up_to_now_takes_the_present_day_whole() -> None:
    horizon = Horizon.at(NOW_US)
    assert segments(us("2026-11-20T00:00:00"), NOW_US, horizon) == [
        Segment(DAY, s("2026-11-20T00:00"), s("2026-11-24T00:00"))
    ]


def test_where_minutes_are_gone_hours_count_whole_and_where_hours_are_gone_days() -> None:
    horizon = Horizon.at(NOW_US)
    assert segments(us("2026-08-01T10:30:00"), us("2026-09-10T10:30:00"), horizon) == [
        Segment(DAY, s("2026-08-01T00:00"), s("2026-09-10T00:00")),
        Segment(HOUR, s("2026-09-10T00:00"), s("2026-09-10T11:00")),
    ]
    assert resolution(us("2026-08-01T10:30:00"), us("2026-09-10T10:30:00"), horizon) is DAY
    assert resolution(us("2026-09-01T10:30:00"), NOW_US, horizon) is HOUR
    assert resolution(us("2026-09-01T10:00:00"), NOW_US, horizon) is MINUTE
    assert resolution(us("2026-11-20T10:30:00"), NOW_US, horizon) is MINUTE


def test_nothing_is_read_from_buckets_that_may_be_deleted_by_now() -> None:
    horizon = Horizon.at(NOW_US)  # minutes before 2026-11-16T18:00:30 are gone, hours before 2026-08-25T18:00:30
    assert segments(us("2026-11-16T17:20:00"), us("2026-11-16T19:05:00"), horizon) == [
        Segment(HOUR, s("2026-11-16T17:00"), s("2026-11-16T19:00")),
        Segment(MINUTE, s("2026-11-16T19:00"), s("2026-11-16T19:05")),
    ]
    assert segments(us("2026-08-25T20:00:00"), us("2026-08-26T02:00:00"), horizon) == [
        Segment(DAY, s("2026-08-25T00:00"), s("2026-08-26T00:00")),
        Segment(HOUR, s("2026-08-26T00:00"), s("2026-08-26T02:00")),
    ]


def test_a_day_across_the_last_minute_that_is_kept_is_one_row() -> None:
    assert segments(us("2026-11-15T00:00:00"), us("2026-11-18T00:00:00"), Horizon.at(NOW_US)) == [
        Segment(DAY, s("2026-11-15T00:00"), s("2026-11-18T00:00"))
    ]


def test_segments_are_no_longer_than_a_time_series_can_use() -> None:
    assert segments(us("2026-11-20T00:00:00"), us("2026-11-22T00:00:00"), coarsest=HOUR) == [
        Segment(HOUR, s("2026-11-20T00:00"), s("2026-11-22T00:00"))
    ]


def test_days_of_a_zone_have_23_and_25_hours_where_clocks_change() -> None:
    spring = steps(us("2026-03-28T12:00:00"), us("2026-03-31T00:00:00"), DAY, BERLIN)
    assert [later - earlier for earlier, later in pairwise(spring)] == [86400, 82800, 86400]
    autumn = steps(us("2026-10-24T12:00:00"), us("2026-10-27T00:00:00"), DAY, BERLIN)
    assert [later - earlier for earlier, later in pairwise(autumn)] == [86400, 90000, 86400]
    assert spring[0] == s("2026-03-28T00:00:00", BERLIN)


def test_hours_of_a_half_hour_zone_begin_at_its_full_hours() -> None:
    starts = steps(us("2026-11-23T10:00:00"), us("2026-11-23T12:00:00"), HOUR, ZoneInfo("Asia/Kolkata"))
    assert starts == [s("2026-11-23T09:30:00"), s("2026-11-23T10:30:00"), s("2026-11-23T11:30:00")]


def days_of(zone: str, from_: str, to: str) -> tuple[list[Segment], list[Segment]]:
    """The buckets that a chart by day reads, and those that it moves."""
    horizon = Horizon.at(NOW_US)
    parts = segments(us(from_), us(to), horizon)
    return parts, moves(parts, steps(us(from_), us(to), DAY, ZoneInfo(zone)), horizon)


def test_days_of_utc_move_nothing() -> None:
    assert days_of("UTC", "2026-11-20T03:00:00", "2026-11-23T00:00:00")[1] == []


def test_a_day_that_a_midnight_cuts_is_one_row_and_its_shorter_part_is_moved() -> None:
    parts, moved = days_of("Europe/Berlin", "2026-11-20T00:00:00", "2026-11-23T00:00:00")
    assert parts == [Segment(DAY, s("2026-11-20T00:00"), s("2026-11-23T00:00"))]
    assert moved == [Segment(HOUR, s(f"2026-11-{day}T23:00"), s(f"2026-11-{day + 1}T00:00")) for day in (20, 21, 22)]
    _, moved = days_of("America/New_York", "2026-11-21T00:00:00", "2026-11-22T00:00:00")
    assert moved == [Segment(HOUR, s("2026-11-21T00:00"), s("2026-11-21T05:00"))]


@pytest.mark.parametrize(
    ("zone", "hours", "minutes"),
    [
        ("Asia/Kolkata", ("18:00", "00:00"), ("18:00", "18:30")),  # midnight at 18:30: hour 18 counts after it
        ("Asia/Kathmandu", ("18:00", "00:00"), ("18:00", "18:15")),
        ("Pacific/Chatham", ("00:00", "10:00"), ("10:00", "10:15")),  # its days begin in the morning
        ("Australia/Eucla", ("15:00", "00:00"), ("15:00", "15:15")),
    ],
)
def test_of_the_hour_that_a_midnight_cuts_the_minutes_of_the_shorter_part_are_moved(
    zone: str, hours: tuple[str, str], minutes: tuple[str, str]
) -> None:
    _, moved = days_of(zone, "2026-11-20T00:00:00", "2026-11-21T00:00:00")
    ends = {"00:00": "2026-11-21T00:00"}
    assert moved == [
        Segment(HOUR, s(f"2026-11-20T{hours[0]}"), s(ends.get(hours[1], f"2026-11-20T{hours[1]}"))),
        Segment(MINUTE, s(f"2026-11-20T{minutes[0]}"), s(f"2026-11-20T{minutes[1]}")),
    ]


def test_what_is_gone_is_not_moved() -> None:
    _, moved = days_of("Asia/Kolkata", "2026-11-01T00:00:00", "2026-11-03T00:00:00")  # minutes are gone
    assert moved == [
        Segment(HOUR, s("2026-11-01T18:00"), s("2026-11-02T00:00")),
        Segment(HOUR, s("2026-11-02T18:00"), s("2026-11-03T00:00")),
    ]
    assert days_of("Asia/Kolkata", "2026-08-01T00:00:00", "2026-08-04T00:00:00")[1] == []  # hours, too


def test_parts_of_a_day_at_the_edge_of_a_period_are_read_as_they_are() -> None:
    parts, moved = days_of("Asia/Kolkata", "2026-11-19T18:30:00", "2026-11-21T18:30:00")
    assert parts == [
        Segment(MINUTE, s("2026-11-19T18:30"), s("2026-11-19T19:00")),
        Segment(HOUR, s("2026-11-19T19:00"), s("2026-11-20T00:00")),
        Segment(DAY, s("2026-11-20T00:00"), s("2026-11-21T00:00")),
        Segment(HOUR, s("2026-11-21T00:00"), s("2026-11-21T18:00")),
        Segment(MINUTE, s("2026-11-21T18:00"), s("2026-11-21T18:30")),
    ]
    assert moved == [
        Segment(HOUR, s("2026-11-20T18:00"), s("2026-11-21T00:00")),
        Segment(MINUTE, s("2026-11-20T18:00"), s("2026-11-20T18:30")),
    ]


def test_hours_of_a_half_hour_zone_move_half_of_the_minutes() -> None:
    from_us, to_us = us("2026-11-20T10:00:00"), us("2026-11-20T12:00:00")
    parts = segments(from_us, to_us, coarsest=HOUR)
    starts = steps(from_us, to_us, HOUR, ZoneInfo("Asia/Kolkata"))
    assert parts == [Segment(HOUR, s("2026-11-20T10:00"), s("2026-11-20T12:00"))]
    assert moves(parts, starts) == [
        Segment(MINUTE, s("2026-11-20T10:00"), s("2026-11-20T10:30")),
        Segment(MINUTE, s("2026-11-20T11:00"), s("2026-11-20T11:30")),
    ]


def test_the_last_minutes_of_an_hour_are_moved_where_they_are_the_shorter_part() -> None:
    parts = [Segment(DAY, s("2026-11-20T00:00"), s("2026-11-21T00:00"))]
    assert moves(parts, [s("2026-11-19T22:50"), s("2026-11-20T22:50")]) == [
        Segment(HOUR, s("2026-11-20T23:00"), s("2026-11-21T00:00")),
        Segment(MINUTE, s("2026-11-20T22:50"), s("2026-11-20T23:00")),
    ]


def test_two_midnights_in_one_day_of_utc_move_both_sides_of_it() -> None:
    starts = [s("2026-11-19T01:00"), s("2026-11-20T01:00"), s("2026-11-20T23:30")]
    parts = [Segment(DAY, s("2026-11-20T00:00"), s("2026-11-21T00:00"))]
    assert moves(parts, starts) == [
        Segment(HOUR, s("2026-11-20T00:00"), s("2026-11-20T01:00")),
        Segment(HOUR, s("2026-11-20T23:00"), s("2026-11-21T00:00")),
        Segment(MINUTE, s("2026-11-20T23:00"), s("2026-11-20T23:30")),
    ]


def test_steps_of_one_length_are_one_run() -> None:
    autumn = steps(us("2026-10-23T22:00:00"), us("2026-10-27T23:00:00"), DAY, BERLIN)
    assert runs(autumn) == [Run(autumn[0], 86400, 0), Run(autumn[1], 90000, 1), Run(autumn[2], 86400, 2)]
    assert runs(autumn[:1]) == runs([]) == []


def test_midnights_that_clocks_skip_and_days_that_a_zone_skipped() -> None:
    # Beirut, 2026-03-29: clocks go from 00:00 to 01:00, so the day begins at 01:00 (22:00 UTC).
    beirut = steps(us("2026-03-28T22:00:00"), us("2026-03-29T23:00:00"), DAY, ZoneInfo("Asia/Beirut"))
    assert beirut == [s("2026-03-28T22:00:00"), s("2026-03-29T21:00:00")]
    # Apia had no 30 December 2011.
    apia = steps(us("2011-12-29T12:00:00"), us("2011-12-31T12:00:00"), DAY, ZoneInfo("Pacific/Apia"))
    assert apia == [s("2011-12-29T10:00:00"), s("2011-12-30T10:00:00"), s("2011-12-31T10:00:00")]


def test_where_clocks_change_by_half_an_hour_one_step_is_an_hour_and_a_half() -> None:
    zone = ZoneInfo("Australia/Lord_Howe")  # 2026-04-05: 02:00 becomes 01:30; 2026-10-04: 02:00 becomes 02:30
    autumn = steps(us("2026-04-04T13:00:00"), us("2026-04-04T17:00:00"), HOUR, zone)
    assert [later - earlier for earlier, later in pairwise(autumn)] == [3600, 5400, 3600]
    spring = steps(us("2026-10-03T13:30:00"), us("2026-10-03T18:00:00"), HOUR, zone)
    assert [later - earlier for earlier, later in pairwise(spring)] == [3600, 5400, 3600]
    assert all(datetime.fromtimestamp(start_s, zone).minute == 0 for start_s in autumn + spring)


def test_too_many_points_are_refused_before_they_are_made() -> None:
    with pytest.raises(ValueError, match=r"minute makes more than 1,000 points .* longer step or a shorter period"):
        steps(0, NOW_US, MINUTE)
    assert len(steps(us("2026-11-22T18:00:00"), us("2026-11-23T10:40:00"), MINUTE)) == 1_000


@pytest.mark.parametrize(
    ("from_", "step"),
    [("now-1h", MINUTE), ("now-16h", MINUTE), ("now-24h", HOUR), ("now-30d", HOUR), ("now-60d", DAY), ("now-3w", HOUR)],
)
def test_the_step_is_the_shortest_that_makes_few_points(from_: str, step: Step) -> None:
    assert step_for(parse_instant(from_, NOW_US), NOW_US, Horizon.at(NOW_US)) is step


def test_the_step_fits_also_where_the_period_begins_within_one() -> None:
    begun_us = NOW_US - 1_000 * 60 * SECOND_US  # at half a minute, so that it touches 1,001 minutes
    assert step_for(begun_us, NOW_US, Horizon.at(NOW_US)) is HOUR
    assert step_for(begun_us + 120 * SECOND_US, NOW_US, Horizon.at(NOW_US)) is MINUTE


def test_the_step_is_one_that_is_still_kept() -> None:
    horizon = Horizon.at(NOW_US)
    assert step_for(us("2026-10-01T00:00:00"), us("2026-10-01T03:00:00"), horizon) is HOUR
    assert step_for(us("2026-01-01T00:00:00"), us("2026-01-01T03:00:00"), horizon) is DAY


@pytest.mark.parametrize(
    ("asked", "begins", "answered"),
    [
        (MINUTE, "2026-11-16T19:00:00", MINUTE),
        (MINUTE, "2026-11-16T18:59:00", HOUR),
        (HOUR, "2026-11-16T18:59:00", HOUR),
        (HOUR, "2026-08-26T00:00:00", HOUR),
        (HOUR, "2026-08-25T23:00:00", DAY),
        (MINUTE, "2026-08-25T23:00:00", DAY),
        (DAY, "2026-11-23T17:00:00", DAY),
    ],
)
def test_a_step_that_is_gone_where_the_period_begins_is_the_next_that_is_kept(
    asked: Step, begins: str, answered: Step
) -> None:
    assert kept_step(asked, us(begins), Horizon.at(NOW_US)) is answered


def test_a_day_of_utc_counts_in_the_local_day_that_holds_most_of_it() -> None:
    starts = steps(us("2026-01-01T05:00:00"), us("2026-01-04T05:00:00"), DAY, ZoneInfo("America/New_York"))
    assert starts[0] == s("2026-01-01T05:00:00")
    assert place(starts, s("2026-01-02T00:00:00"), DAY) == 1
    assert place(starts, s("2026-01-02T00:00:00"), HOUR) == 0
    assert place(starts, s("2025-12-31T00:00:00"), DAY) == 0
