"""The promises about one limit: never over, hardly under, retry_after to the microsecond, peeks free, refusals free."""

from __future__ import annotations

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apishield.core.model import Algorithm, Concurrency, SlidingWindow, TokenBucket
from tests.conformance.oracle import Oracle
from tests.conformance.schedules import histories, rules
from tests.conformance.targets import Target

SECOND_US = 1_000_000
MICROSECOND = 1e-6
shared_target = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def most(rule: Algorithm) -> int:
    return rule.burst if isinstance(rule, TokenBucket) else rule.requests


@shared_target
@given(history=histories())
def test_admits_what_the_oracle_admits_and_never_goes_over(
    target: Target, history: tuple[Algorithm, list[tuple[int, int]]]
) -> None:
    target.new_world()
    rule, checks = history
    oracle, counter = Oracle(rule), target.counter("a", rule)
    for number, (pause_us, cost) in enumerate(checks):
        target.clock.now_us += pause_us
        verdict = target.decide([counter], [cost], f"dec_{number}")
        assert verdict.now_us == target.clock.now_us
        expected = oracle.expects(verdict.now_us, cost)
        assert expected in ("either", "admit" if verdict.admitted else "refuse")
        if verdict.admitted and cost:
            oracle.charges.append((verdict.now_us, cost))
    assert oracle.worst_excess() <= 0


@shared_target
@given(history=histories())
def test_what_remains_can_be_charged_and_no_unit_more(
    target: Target, history: tuple[Algorithm, list[tuple[int, int]]]
) -> None:
    target.new_world()
    rule, checks = history
    counter = target.counter("a", rule)
    for number, (pause_us, cost) in enumerate(checks):
        target.clock.now_us += pause_us
        target.decide([counter], [cost], f"dec_{number}")
    left = target.decide([counter], [0]).outcomes[0].remaining
    over = target.decide([counter], [left + 1], "over").outcomes[0]
    assert (over.admitted, over.remaining) == (False, left)
    assert target.decide([counter], [left], "all").admitted


@shared_target
@given(history=histories())
def test_a_refused_check_passes_at_retry_after_and_not_a_microsecond_before(
    target: Target, history: tuple[Algorithm, list[tuple[int, int]]]
) -> None:
    target.new_world()
    rule, checks = history
    counter = target.counter("a", rule)
    for number, (pause_us, cost) in enumerate(checks):
        target.clock.now_us += pause_us
        outcome = target.decide([counter], [cost], f"dec_{number}").outcomes[0]
        if outcome.admitted:
            assert outcome.retry_after_us == 0
        elif outcome.retry_after_us is None:
            assert cost > most(rule)
    for cost in (1, 2, most(rule) // 2, most(rule)):
        outcome = target.decide([counter], [cost], "last").outcomes[0]
        if outcome.admitted or outcome.retry_after_us is None or target.clock.now_us + outcome.retry_after_us > 2**53:
            continue
        is_concurrency = isinstance(rule, Concurrency)  # there it is only the earliest instant at which it might
        target.clock.now_us += outcome.retry_after_us - 1
        assert not target.decide([counter], [cost], "last").admitted
        target.clock.now_us += 1
        assert is_concurrency or target.decide([counter], [cost], "last").admitted
        return


@shared_target
@given(history=histories())
def test_at_reset_the_whole_limit_is_there_again(
    target: Target, history: tuple[Algorithm, list[tuple[int, int]]]
) -> None:
    target.new_world()
    rule, checks = history
    counter = target.counter("a", rule)
    for number, (pause_us, cost) in enumerate(checks):
        target.clock.now_us += pause_us
        outcome = target.decide([counter], [cost], f"dec_{number}").outcomes[0]
    outcome = target.decide([counter], [0]).outcomes[0]
    if target.clock.now_us + outcome.reset_us < 2**53:
        target.clock.now_us += outcome.reset_us
        assert target.decide([counter], [0]).outcomes[0].remaining == most(rule)


@shared_target
@given(rule=rules, peeks=st.integers(1, 5))
def test_peeks_and_refusals_charge_nothing(target: Target, rule: Algorithm, peeks: int) -> None:
    target.new_world()
    counter = target.counter("a", rule)
    for _ in range(peeks):
        assert target.decide([counter], [0]).outcomes[0].remaining == most(rule)
        refused = target.decide([counter], [most(rule) + 1]).outcomes[0]
        assert (refused.admitted, refused.remaining, refused.retry_after_us) == (False, most(rule), None)
    assert target.decide([counter], [most(rule)]).admitted


def test_a_sliding_window_holds_in_any_interval_where_a_two_counter_approximation_does_not(target: Target) -> None:
    rule = SlidingWindow(100, 60 * SECOND_US)
    oracle, counter = Oracle(rule), target.counter("a", rule)
    for _ in range(600):  # two a second for five minutes, more than is allowed
        target.clock.now_us += SECOND_US // 2
        if target.decide([counter], [1]).admitted:
            oracle.charges.append((target.clock.now_us, 1))
    assert oracle.worst_excess() == 0  # and the limit was used up, not merely kept
    assert len(oracle.charges) >= math.floor(5 * 100 * 0.999)
