"""Each score catches the limiter that breaks its promise, and none accuses one that keeps them all."""

from __future__ import annotations

import pytest
from benchmarks.adapters.ours import Memory

from apishield.conformance.adapter import MakeAdapter
from apishield.conformance.run import run
from apishield.conformance.schedules import Promise
from apishield.conformance.score import HARDLY_UNDER, NEVER_OVER, Score
from apishield.conformance.targets import AdapterTarget
from apishield.core.rate_limiter.parse import parse_limit
from tests.conformance import wrong_limiters as wrong


async def scored(make: MakeAdapter, *limits: str, rounds: int = 5) -> Score:
    target = AdapterTarget(make)
    try:
        return await run(target, [parse_limit(limit) for limit in limits], rounds=rounds)
    finally:
        await target.close()


@pytest.mark.parametrize(
    "limits",
    [
        ("20/minute",),
        ("20/minute fixed",),
        ("20/minute burst 20",),
        ("3/1s burst 40",),
        ("1/1s",),
        ("5/10s", "20/minute"),
        ("4/7s fixed", "6/10s burst 9"),
    ],
    ids=" and ".join,
)
async def test_ours_keeps_every_promise(limits: tuple[str, ...]) -> None:
    score = await scored(Memory, *limits, rounds=20)
    assert score.broken == []
    assert score.over_units == 0
    assert score.early_percent <= 0.1
    assert score.admitted > 300


async def test_every_promise_is_tried() -> None:
    score = await scored(Memory, "5/10s", "20/minute")
    assert set(score.trials) == {promise.value for promise in Promise}


async def test_a_log_of_all_admissions_keeps_every_promise() -> None:
    assert (await scored(wrong.Exact, "20/minute")).broken == []


async def test_an_approximation_by_two_counters_is_found_to_go_over() -> None:
    score = await scored(wrong.TwoCounters, "20/minute")
    assert NEVER_OVER in score.broken
    assert score.over_percent >= 50
    assert score.over_in == "exhaust"


async def test_a_window_that_is_one_percent_short_is_found_to_go_over() -> None:
    assert NEVER_OVER in (await scored(wrong.Generous, "20/minute")).broken


async def test_a_window_that_is_one_percent_long_is_found_to_refuse_too_early() -> None:
    score = await scored(wrong.Stingy, "20/minute")
    assert HARDLY_UNDER in score.broken
    assert 0.5 < score.early_percent <= 1


async def test_charged_refusals_are_found() -> None:
    score = await scored(wrong.ChargesRefusals, "20/minute")
    assert Promise.REFUSALS_FREE in score.broken
    assert NEVER_OVER not in score.broken


async def test_a_limit_that_is_charged_for_what_another_refused_is_found() -> None:
    score = await scored(wrong.ChargesTheOthers, "5/10s", "20/minute")
    assert Promise.TOGETHER in score.broken
    assert score.trials[Promise.TOGETHER].most_units > 0


async def test_a_limiter_that_looks_before_it_charges_loses_the_race() -> None:
    score = await scored(wrong.NotAtomic, "20/minute")
    assert Promise.RACE in score.broken
    assert NEVER_OVER in score.broken
    assert score.trials[Promise.RACE].most_units > 20
    assert score.over_in == "race"


async def test_a_retry_after_that_comes_too_soon_is_found() -> None:
    assert (await scored(wrong.TellsTooSoon, "20/minute")).broken == [Promise.RETRY_AT]


async def test_a_retry_after_that_comes_too_late_is_found() -> None:
    assert (await scored(wrong.TellsTooLate, "20/minute")).broken == [Promise.RETRY_BEFORE]


async def test_the_same_seed_gives_the_same_score() -> None:
    assert await scored(wrong.TwoCounters, "20/minute") == await scored(wrong.TwoCounters, "20/minute")


async def test_the_early_refusals_that_a_bounded_state_costs_are_measured() -> None:
    assert 0 < (await scored(Memory, "20/minute")).early_percent <= 0.1
