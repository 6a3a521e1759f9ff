"""The promises about many limits in one check: all or nothing, shadows never refuse, refusals are free by default."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from apishield.core.model import (
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Mode,
    Quota,
    SlidingWindow,
    TokenBucket,
)
from apishield.core.ports import Hold
from tests.conformance.schedules import SECOND_US, rules
from tests.conformance.targets import Target

MINUTE_US = 60 * SECOND_US
ALL: list[Algorithm] = [
    FixedWindow(5, MINUTE_US),
    SlidingWindow(5, MINUTE_US),
    TokenBucket(5, MINUTE_US, 5),
    Quota(5),
    Concurrency(5, MINUTE_US),
]


def remaining(target: Target, counters: list[Counter]) -> list[int]:
    return [outcome.remaining for outcome in target.decide(counters, [0] * len(counters)).outcomes]


def most(rule: Algorithm) -> int:
    return rule.burst if isinstance(rule, TokenBucket) else rule.requests


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(rules, min_size=2, max_size=6), data=st.data())
def test_a_check_charges_every_limit_or_none(target: Target, limits: list[Algorithm], data: st.DataObject) -> None:
    target.new_world()
    counters = [target.counter(str(index), rule) for index, rule in enumerate(limits)]
    costs = [data.draw(st.sampled_from([0, 1, max(1, most(rule) // 2), most(rule), most(rule) + 1])) for rule in limits]
    before = remaining(target, counters)
    verdict = target.decide(counters, costs)
    assert verdict.admitted == all(outcome.admitted for outcome in verdict.outcomes)
    charged = costs if verdict.admitted else [0] * len(costs)
    assert remaining(target, counters) == [left - cost for left, cost in zip(before, charged, strict=True)]


def test_five_kinds_of_limit_are_charged_in_one_verdict(target: Target) -> None:
    counters = [target.counter(str(index), rule) for index, rule in enumerate(ALL)]
    for number in range(5):
        assert target.decide(counters, [1] * 5, f"dec_{number}").admitted
    verdict = target.decide(counters, [1] * 5, "dec_6")
    assert not verdict.admitted
    assert [outcome.admitted for outcome in verdict.outcomes] == [False] * 5
    assert remaining(target, counters) == [0] * 5


def test_a_shadow_limit_never_refuses_and_is_charged_only_when_it_would_admit(target: Target) -> None:
    shadow = target.counter("shadow", FixedWindow(2, MINUTE_US), mode=Mode.SHADOW)
    enforced = target.counter("enforced", FixedWindow(4, MINUTE_US))
    verdicts = [target.decide([shadow, enforced], [1, 1]) for _ in range(5)]
    assert [verdict.admitted for verdict in verdicts] == [True, True, True, True, False]
    assert [verdict.outcomes[0].admitted for verdict in verdicts] == [True, True, False, False, False]
    assert remaining(target, [shadow, enforced]) == [0, 0]


def test_a_shadow_limit_is_not_charged_when_an_enforced_one_refuses(target: Target) -> None:
    shadow = target.counter("shadow", FixedWindow(9, MINUTE_US), mode=Mode.SHADOW)
    enforced = target.counter("enforced", FixedWindow(1, MINUTE_US))
    for _ in range(3):
        target.decide([shadow, enforced], [1, 1])
    assert remaining(target, [shadow, enforced]) == [8, 0]


def test_charge_refused_charges_the_violated_limit_and_no_other(target: Target) -> None:
    for index, rule in enumerate(ALL[:4]):
        violated = target.counter(f"v{index}", rule, charge_refused=True)
        fitting = target.counter(f"f{index}", FixedWindow(100, MINUTE_US), charge_refused=True)
        target.decide([violated, fitting], [4, 1])
        assert not target.decide([violated, fitting], [3, 1]).admitted
        assert remaining(target, [violated, fitting]) == [0, 99]


def test_who_keeps_hammering_a_sliding_limit_that_charges_refusals_stays_out(target: Target) -> None:
    patient = target.counter("patient", SlidingWindow(10, MINUTE_US))
    strict = target.counter("strict", SlidingWindow(10, MINUTE_US), charge_refused=True)
    admitted = [0, 0]
    for _ in range(300):  # five minutes of one a second
        target.clock.now_us += SECOND_US
        for index, counter in enumerate([patient, strict]):
            admitted[index] += target.decide([counter], [1]).admitted
    assert admitted == [50, 10]


def test_an_empty_check_is_admitted(target: Target) -> None:
    assert target.decide([], []).admitted


def test_changed_numbers_keep_what_was_used(target: Target) -> None:
    for index, rule in enumerate(ALL):
        counter = target.counter(str(index), rule)
        assert target.decide([counter], [3], "dec_1").admitted
        for requests, left in [(10, 7), (4, 1), (2, -1)]:
            burst = {"burst": requests} if isinstance(rule, TokenBucket) else {}
            changed = target.counter(str(index), replace(rule, requests=requests, **burst))
            assert remaining(target, [changed]) == [left]


def test_a_longer_sliding_window_still_counts_what_the_shorter_one_saw(target: Target) -> None:
    short = target.counter("a", SlidingWindow(5, 10 * SECOND_US))
    target.decide([short], [5])
    target.clock.now_us += 5 * SECOND_US
    long = target.counter("a", SlidingWindow(5, MINUTE_US))
    outcome = target.decide([long], [1]).outcomes[0]
    assert (outcome.admitted, outcome.retry_after_us) == (False, 55 * SECOND_US)


def test_a_changed_algorithm_starts_a_new_state(target: Target) -> None:
    assert target.decide([target.counter("a", FixedWindow(1, MINUTE_US))], [1]).admitted
    assert target.decide([target.counter("a", SlidingWindow(1, MINUTE_US))], [1]).admitted


def test_forced_charges_count_even_past_the_limit(target: Target) -> None:
    for index, rule in enumerate(ALL[:4]):
        counter = target.counter(str(index), rule)
        target.run(target.store.charge([counter], [7]))
        outcome = target.decide([counter], [1]).outcomes[0]
        assert (outcome.admitted, outcome.remaining) == (False, -2)  # what was used past the limit is told


def test_a_released_slot_is_free_again_and_only_once(target: Target) -> None:
    counter = target.counter("a", Concurrency(2, MINUTE_US))
    assert [target.decide([counter], [1], name).admitted for name in ("one", "two", "three")] == [True, True, False]
    for _ in range(2):
        target.run(target.store.release([counter], [1], "one"))
    assert [target.decide([counter], [1], name).admitted for name in ("four", "five")] == [True, False]


def test_a_slot_that_nobody_releases_frees_itself_after_its_time_out(target: Target) -> None:
    counter = target.counter("a", Concurrency(1, MINUTE_US))
    assert target.decide([counter], [1], "one").admitted
    refused = target.decide([counter], [1], "two").outcomes[0]
    assert refused.retry_after_us == MINUTE_US
    target.clock.now_us += MINUTE_US - 1
    assert not target.decide([counter], [1], "three").admitted
    target.clock.now_us += 1
    assert target.decide([counter], [1], "four").admitted


def test_a_slot_that_is_given_back_under_another_time_out_leaves_the_others_as_long_as_they_had(target: Target) -> None:
    short, long = (target.counter("a", Concurrency(2, timeout_us)) for timeout_us in (SECOND_US, MINUTE_US))
    assert target.decide([short], [1], "crashed").admitted
    target.run(target.store.release([long], [1], "somebody else"))
    target.clock.now_us += SECOND_US
    assert remaining(target, [long]) == [2]


def test_a_reset_gives_the_whole_limit_back(target: Target) -> None:
    counters = [target.counter(str(index), rule) for index, rule in enumerate(ALL)]
    target.decide(counters, [5] * 5)
    target.run(target.store.reset(counters))
    assert remaining(target, counters) == [5] * 5


def test_time_never_goes_back_for_a_counter(target: Target) -> None:
    counter = target.counter("a", SlidingWindow(1, MINUTE_US))
    first = target.decide([counter], [1])
    target.clock.now_us -= 10 * SECOND_US
    second = target.decide([counter], [1])
    assert second.now_us == first.now_us
    assert second.outcomes[0].retry_after_us == MINUTE_US


def test_a_check_that_is_settled_after_its_slots_timed_out_takes_none(target: Target) -> None:
    slots, other = target.counter("a", Concurrency(9, SECOND_US)), target.counter("b", FixedWindow(9, MINUTE_US))
    key = target.record_key(1)
    target.decide([slots], [1], "dec_1", Hold(key, 60, (1,), settles=True))
    for _ in range(3):  # long enough for a store to forget the slots
        target.clock.now_us += 2 * SECOND_US
        target.decide([other], [1])
    held = target.run(target.store.held(key))
    assert held is not None
    assert target.run(target.store.settle(key, held, [5], "dec_1"))
    assert remaining(target, [slots]) == [9]


@pytest.mark.parametrize("settled", [0, 1, 3])
@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow])
def test_to_settle_a_check_of_before_a_change_forgets_nothing_of_what_came_after(
    target: Target, kind: type[FixedWindow | SlidingWindow], settled: int
) -> None:
    before, after = (target.counter("a", kind(9, length_us)) for length_us in (SECOND_US, MINUTE_US))
    key = target.record_key(1)
    target.clock.now_us += MINUTE_US - target.clock.now_us % MINUTE_US
    target.decide([before], [1], "dec_1", Hold(key, 60, (1,), settles=True))
    target.clock.now_us += SECOND_US // 2
    assert target.decide([after], [8]).admitted
    target.clock.now_us += 5 * SECOND_US
    held = target.run(target.store.held(key))
    assert held is not None
    assert target.run(target.store.settle(key, held, [settled], "dec_1"))
    assert remaining(target, [after]) == [1 - settled]


def test_what_is_charged_where_nothing_counts_any_more_counts_as_long_as_it_should_now(target: Target) -> None:
    before, after = (target.counter("a", SlidingWindow(9, length_us)) for length_us in (SECOND_US, MINUTE_US))
    target.decide([before], [1])
    target.clock.now_us += SECOND_US
    target.run(target.store.charge([after], [5]))
    target.clock.now_us += 30 * SECOND_US
    assert remaining(target, [after]) == [4]
