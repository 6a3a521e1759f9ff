"""The judge never accuses a limiter that kept its limit, whatever the network did; and sees what must be seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.conformance.judge import Hit, earliness_us, excess
from apishield.core.model import SECOND_US, FixedWindow, SlidingWindow, TokenBucket
from apishield.core.rate_limiter.parse import RateAlgorithm
from tests.conformance.oracle import Oracle

WINDOW_US = 2 * SECOND_US
rules = st.one_of(
    st.builds(SlidingWindow, st.integers(1, 6), st.just(WINDOW_US)),
    st.builds(FixedWindow, st.integers(1, 6), st.just(WINDOW_US)),
    st.builds(TokenBucket, st.integers(1, 6), st.just(WINDOW_US), st.integers(1, 6)),
)
delays_us = st.one_of(st.just(0), st.integers(0, 2_000), st.integers(0, WINDOW_US))
checks = st.lists(
    st.tuples(st.one_of(st.integers(0, 50_000), st.integers(0, WINDOW_US)), delays_us, delays_us, st.integers(1, 3)),
    max_size=40,
)


@given(rule=rules, checks=checks, offset_us=st.integers(0, 10 * WINDOW_US))
def test_delays_and_a_foreign_clock_never_make_up_a_fault(
    rule: RateAlgorithm, checks: list[tuple[int, int, int, int]], offset_us: int
) -> None:
    oracle, now_us, hits = Oracle(rule), 100 * WINDOW_US, []
    for pause_us, there_us, back_us, cost in checks:
        now_us += pause_us
        admitted = oracle.expects(now_us, cost) != "refuse"
        if admitted:
            oracle.charges.append((now_us, cost))
        seen_us = now_us + offset_us
        hits.append(Hit(seen_us - there_us, seen_us + back_us, cost, admitted))
    assert excess(rule, hits, slack_us=0) == 0
    for hit in hits:
        if not hit.admitted:
            assert earliness_us([rule], hit, hits, slack_us=0) == 0


@given(checks=checks)
def test_windows_that_begin_with_a_first_request_are_fixed_windows_too(
    checks: list[tuple[int, int, int, int]],
) -> None:
    rule, begun_us, used, now_us, hits = FixedWindow(3, WINDOW_US), 0, 0, 100 * WINDOW_US, []
    for pause_us, there_us, back_us, cost in checks:
        now_us += pause_us
        if now_us >= begun_us + WINDOW_US and cost <= 3:
            begun_us, used = now_us, 0
        admitted = used + cost <= 3
        used += cost * admitted
        hits.append(Hit(now_us - there_us, now_us + back_us, cost, admitted))
    assert excess(rule, hits, slack_us=0) == 0


@pytest.mark.parametrize(
    ("rule", "units"),
    [(SlidingWindow(5, WINDOW_US), 7), (FixedWindow(5, WINDOW_US), 1), (TokenBucket(5, WINDOW_US, 3), 9)],
    ids=["sliding", "fixed: astride two windows, at best", "bucket"],
)
def test_admissions_within_milliseconds_are_counted_against_the_limit(rule: RateAlgorithm, units: int) -> None:
    hits = [Hit(at_us, at_us + 900, 1, admitted=True) for at_us in range(0, 12_000, 1_000)]
    assert excess(rule, hits, slack_us=10) == units


def test_admissions_that_may_lie_a_window_apart_are_not_held_against_each_other() -> None:
    rule = SlidingWindow(1, WINDOW_US)
    late_answer = Hit(WINDOW_US - 5_000, WINDOW_US, 1, admitted=True)
    assert excess(rule, [Hit(0, 100, 1, admitted=True), late_answer], slack_us=0) == 0
    early_answer = Hit(WINDOW_US - 5_000, WINDOW_US - 1, 1, admitted=True)
    assert excess(rule, [Hit(0, 100, 1, admitted=True), early_answer], slack_us=0) == 1


@pytest.mark.parametrize("rule", [SlidingWindow(1, WINDOW_US), FixedWindow(1, WINDOW_US), TokenBucket(1, WINDOW_US, 1)])
def test_a_refusal_is_early_by_the_time_since_it_had_to_be_admitted(rule: RateAlgorithm) -> None:
    admitted = Hit(0, 1_000, 1, admitted=True)
    refused = Hit(WINDOW_US + 31_000, WINDOW_US + 40_000, 1, admitted=False)
    assert earliness_us([rule], refused, [admitted], slack_us=0) == 30_000


def test_a_refusal_that_nothing_accounts_for_is_early_by_a_window() -> None:
    assert earliness_us([SlidingWindow(1, WINDOW_US)], Hit(0, 9, 1, admitted=False), [], slack_us=0) == WINDOW_US


def test_a_refusal_counts_as_one_of_whichever_limit_explains_it() -> None:
    admitted, refused = Hit(0, 1, 1, admitted=True), Hit(WINDOW_US, WINDOW_US + 1, 1, admitted=False)
    rules = [SlidingWindow(1, WINDOW_US), SlidingWindow(1, 2 * WINDOW_US)]
    assert earliness_us(rules, refused, [admitted], slack_us=0) == 0


def test_a_cost_above_the_limit_is_never_refused_wrongly() -> None:
    assert earliness_us([SlidingWindow(1, WINDOW_US)], Hit(0, 9, 2, admitted=False), [], slack_us=0) == 0
