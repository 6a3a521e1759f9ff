"""Calendar periods of quotas, in any time zone, over any change of the clocks."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.model import SECOND_US, Quota
from apishield.core.rate_limiter.quota import period_name, period_of

HOUR_US = 3600 * SECOND_US
zones = st.sampled_from(sorted(available_timezones()))
quotas = st.builds(Quota, st.just(1), st.sampled_from(["day", "month"]), zones)
instants_us = st.integers(0, 4_000_000_000 * SECOND_US)


def us(text: str, zone: str = "UTC") -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return round(moment.astimezone(UTC).timestamp()) * SECOND_US


@given(quota=quotas, now_us=instants_us)
def test_every_instant_lies_in_one_period_and_periods_follow_each_other(quota: Quota, now_us: int) -> None:
    start_us, end_us = period_of(quota, now_us)
    assert start_us <= now_us < end_us
    assert period_of(quota, start_us) == period_of(quota, end_us - 1) == (start_us, end_us)
    assert period_of(quota, end_us)[0] == end_us
    assert period_of(quota, start_us - 1)[1] == start_us


@given(quota=quotas, now_us=instants_us)
def test_a_period_has_one_name_and_its_neighbours_another(quota: Quota, now_us: int) -> None:
    start_us, end_us = period_of(quota, now_us)
    name = period_name(quota, now_us)
    assert name == period_name(quota, start_us) == period_name(quota, end_us - 1)
    assert period_name(quota, start_us - 1) < name < period_name(quota, end_us)


@pytest.mark.parametrize(
    ("quota", "now", "start", "end"),
    [
        (Quota(1), "2026-02-28T23:59:59", "2026-02-01", "2026-03-01"),
        (Quota(1), "2028-02-29T00:00:00", "2028-02-01", "2028-03-01"),
        (Quota(1), "2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
        (Quota(1, "day"), "2026-03-29T12:00:00", "2026-03-29", "2026-03-30"),
        (Quota(1, "day", "Europe/Berlin"), "2026-03-29T12:00:00", "2026-03-29", "2026-03-30"),  # 23 hours long
        (Quota(1, "month", "Pacific/Kiritimati"), "2026-03-31T23:00:00", "2026-03-01", "2026-04-01"),
    ],
)
def test_periods_begin_at_midnight_of_their_zone(quota: Quota, now: str, start: str, end: str) -> None:
    zone = quota.time_zone
    assert period_of(quota, us(now, zone)) == (us(start, zone), us(end, zone))


def test_a_day_on_which_the_clocks_change_is_an_hour_shorter_or_longer() -> None:
    lengths = []
    for day in ("2026-03-29T12:00:00", "2026-10-25T12:00:00"):
        start_us, end_us = period_of(Quota(1, "day", "Europe/Berlin"), us(day))
        lengths.append((end_us - start_us) // HOUR_US)
    assert lengths == [23, 25]
