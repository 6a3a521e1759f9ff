"""Limits as people write them."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.model import (
    MAX_UNITS,
    SECOND_US,
    Concurrency,
    FixedWindow,
    Quota,
    SlidingWindow,
    TokenBucket,
)
from apishield.core.rate_limiter.parse import faults_of, parse_limit

MINUTE_US, HOUR_US = 60 * SECOND_US, 3600 * SECOND_US


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("100/minute", SlidingWindow(100, MINUTE_US)),
        ("100 / min", SlidingWindow(100, MINUTE_US)),
        ("  5 per   minute ", SlidingWindow(5, MINUTE_US)),
        ("100/15 minutes", SlidingWindow(100, 15 * MINUTE_US)),
        ("100/15m", SlidingWindow(100, 15 * MINUTE_US)),
        ("1_000/Hour sliding", SlidingWindow(1000, HOUR_US)),
        ("1000 per hour, fixed window", FixedWindow(1000, HOUR_US)),
        ("10/second burst 20", TokenBucket(10, SECOND_US, 20)),
        ("10/s, burst=20", TokenBucket(10, SECOND_US, 20)),
        ("1/31 days", SlidingWindow(1, 31 * 24 * HOUR_US)),
        ("1000000000/week", SlidingWindow(MAX_UNITS, 7 * 24 * HOUR_US)),
    ],
)
def test_a_limit_reads_as_it_is_written(text: str, limit: object) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", 'write one such as "100/minute"'),
        ("fast", 'write one such as "100/minute"'),
        ("1.5/second", 'write one such as "100/minute"'),
        ("-1/second", 'write one such as "100/minute"'),
        ("٣/second", 'write one such as "100/minute"'),
        ("1/second burst", 'write one such as "100/minute"'),
        ("1/second fixed burst 3", 'write one such as "100/minute"'),
        ("1/fortnight", "'fortnight' in '1/fortnight' is not a unit of time"),
        ("500000/month", "use a quota"),
        ("0/minute", "requests is 0; it must be a whole number of 1 to 1,000,000,000"),
        ("2000000000/minute", "requests is 2000000000"),
        ("1/0 seconds", "the window is 0 seconds; it must be 1 second to 31 days"),
        ("1/32 days", "the window is 2,764,800 seconds"),
        ("1/second burst 0", "burst is 0"),
        ("0/0s burst 0", "requests is 0; it must be a whole number of 1 to 1,000,000,000; the window is 0 seconds"),
        ("1/second" + " " * 1000, "is not a limit"),
        ("9" * 100_000 + "/second", "is not a limit"),
    ],
)
def test_a_limit_that_cant_be_read_says_why_and_what_would_be_right(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as error:
        parse_limit(text)
    assert len(str(error.value)) < 500


@given(text=st.text(max_size=60))
def test_any_text_is_a_limit_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert not list(faults_of(parse_limit(text)))


@pytest.mark.parametrize(
    ("limit", "faults"),
    [
        (SlidingWindow(1, SECOND_US), 0),
        (SlidingWindow(0, SECOND_US - 1), 2),
        (TokenBucket(1, 31 * 24 * HOUR_US + 1, MAX_UNITS + 1), 2),
        (Concurrency(5, 0), 1),
        (FixedWindow(True, SECOND_US), 1),
        (FixedWindow(1.5, 1e6), 2),  # type: ignore[arg-type]
        (Quota(1, "day", "Mars/Olympus"), 1),
        (Quota(1, "month", "Europe/Berlin"), 0),
    ],
)
def test_every_number_out_of_bounds_is_a_fault(limit: SlidingWindow, faults: int) -> None:
    assert len(list(faults_of(limit))) == faults
