"""What a state says is taken: a check that asks for no more than that leaves is admitted without asking whether it fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.model import Algorithm, Concurrency, FixedWindow, Quota, SlidingWindow, TokenBucket
from apishield.core.rate_limiter import quota
from apishield.core.rate_limiter.verdict import new_state
from tests.support.clock import SECOND_US, START_US

units = st.integers(1, 12)
windows_us = st.sampled_from([SECOND_US, 3 * SECOND_US + 1, 60 * SECOND_US])
rules: dict[type[Algorithm], st.SearchStrategy[Any]] = {
    FixedWindow: st.builds(FixedWindow, units, windows_us),
    SlidingWindow: st.builds(SlidingWindow, units, windows_us),
    TokenBucket: st.builds(TokenBucket, units, windows_us, units),
    Concurrency: st.builds(Concurrency, units, windows_us),
    Quota: st.builds(Quota, units, st.just("day")),
}
steps = st.tuples(
    st.sampled_from(["charge", "penalize", "refund", "adopt", "wait"]),
    st.integers(0, 7),
    st.sampled_from([0, 0, 0, 1, 999, 500_000, SECOND_US, 3 * SECOND_US, 61 * SECOND_US]),
)


@pytest.mark.parametrize("kind", rules)
@given(st.data(), st.lists(steps, min_size=5, max_size=40))
def test_what_is_not_taken_fits_whenever_it_is_asked_for(
    kind: type[Algorithm], data: st.DataObject, taken: list[tuple[str, int, int]]
) -> None:
    state, now_us, charged_at_us = new_state(data.draw(rules[kind])), START_US, START_US
    for step, cost, pause_us in taken:
        now_us += pause_us
        if isinstance(state, quota.State) and now_us >= state.end_us:
            state.seed(*quota.period_of(state.rule, now_us), 0)
        match step:
            case "charge":
                state.charge(now_us, cost, "chk")
                charged_at_us = now_us
            case "penalize":
                if not state.fits(now_us, cost):
                    state.penalize(now_us, cost)
            case "refund":
                state.refund(now_us, charged_at_us, cost)
            case "adopt":
                state.adopt(data.draw(rules[kind]), now_us)
        free = state.rule.requests - state.taken
        assert free <= state.rule.ceiling
        assert free < 0 or state.fits(now_us, free)


@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow, TokenBucket])
@given(st.data())
def test_what_a_charge_leaves_is_what_the_check_is_told(kind: type[Algorithm], data: st.DataObject) -> None:
    state, now_us = new_state(data.draw(rules[kind])), START_US
    for cost in data.draw(st.lists(st.integers(1, 14), min_size=1)):
        now_us += data.draw(st.sampled_from([0, 1, 500_000, SECOND_US]))
        assert state.charge(now_us, cost).remaining == state.rule.requests - state.taken
