"""The promises about checks that are asked again under one name: decided once, charged once, the same verdict for all."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from apishield.core.counter_keys import once_key
from apishield.core.model import (
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Once,
    Quota,
    Repeat,
    SlidingWindow,
    Verdict,
)
from apishield.stores.decided import DecidedChecks
from tests.conformance.schedules import SECOND_US, rules
from tests.conformance.targets import Target, memory_target
from tests.support.clock import ManualClock

MINUTE_US = 60 * SECOND_US
shared_target = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def named(target: Target, check_id: str, question: str = "q") -> Once:
    return Once(once_key(target.tenant_id, check_id), question)


def ask_all(target: Target, asked: list[tuple[Once, list[Counter], list[int], str]]) -> list[Verdict]:
    """Asks all checks at the same time."""

    async def ask(once: Once, counters: list[Counter], costs: list[int], decision_id: str) -> Verdict:
        verdict = target.store.decide_once(once, counters, costs, decision_id)
        return verdict if isinstance(verdict, Verdict) else await verdict

    async def gather() -> list[Verdict]:
        return await asyncio.gather(*(ask(*each) for each in asked))

    return target.run(gather())


def ask(target: Target, once: Once, counters: list[Counter], cost: int = 1, decision_id: str = "dec_1") -> Verdict:
    return ask_all(target, [(once, counters, [cost] * len(counters), decision_id)])[0]


def said(verdict: Verdict) -> tuple[object, ...]:
    """What a verdict says, whether it is the first or repeats it."""
    return verdict.admitted, verdict.now_us, verdict.outcomes


@shared_target
@given(
    limits=st.lists(rules, min_size=0, max_size=3),
    turns=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8),
    pauses=st.lists(st.integers(0, 5 * SECOND_US), min_size=8, max_size=8),
)
def test_any_interleaving_of_duplicates_charges_each_name_once(
    target: Target, limits: list[Algorithm], turns: list[list[int]], pauses: list[int]
) -> None:
    target.new_world()
    counters = [target.counter(str(index), rule) for index, rule in enumerate(limits)]
    plain = [target.counter(f"plain {index}", rule) for index, rule in enumerate(limits)]  # asked once a name
    first: dict[int, Verdict] = {}
    ids = iter(range(1000))
    for turn, pause_us in zip(turns, pauses, strict=False):
        target.clock.now_us += pause_us
        verdicts = ask_all(
            target, [(named(target, f"check {name}"), counters, [1] * len(limits), f"dec_{next(ids)}") for name in turn]
        )
        for name, verdict in zip(turn, verdicts, strict=True):
            if name not in first:
                first[name] = verdict
                assert not isinstance(verdict, Repeat)
                assert said(verdict) == said(target.decide(plain, [1] * len(limits), f"dec_plain_{name}"))
            else:
                assert isinstance(verdict, Repeat)
                assert said(verdict) == said(first[name])
    left = [outcome.remaining for outcome in target.decide(counters, [0] * len(limits)).outcomes]
    assert left == [outcome.remaining for outcome in target.decide(plain, [0] * len(limits)).outcomes]


def test_a_repeat_tells_the_first_decision_its_question_and_its_limits(target: Target) -> None:
    counters = [target.counter("a", SlidingWindow(5, MINUTE_US)), target.counter("b", Quota(9))]
    ask(target, named(target, "one", "first question"), counters, decision_id="dec_first")
    repeat = ask(target, named(target, "one", "another question"), [counters[1]], decision_id="dec_second")
    assert isinstance(repeat, Repeat)
    assert (repeat.decision_id, repeat.question) == ("dec_first", "first question")
    assert [counter.limit for counter in repeat.counters] == [counter.limit for counter in counters]
    assert [outcome.remaining for outcome in repeat.outcomes] == [4, 8]


def test_a_refused_check_is_refused_again_though_there_is_room_by_then(target: Target) -> None:
    counter = target.counter("a", FixedWindow(1, 10 * SECOND_US))
    assert target.decide([counter], [1]).admitted
    refused = ask(target, named(target, "one"), [counter])
    target.clock.now_us += 11 * SECOND_US
    again = ask(target, named(target, "one"), [counter])
    assert (again.admitted, said(again)) == (False, said(refused))
    assert ask(target, named(target, "two"), [counter]).admitted


def test_a_repeat_takes_no_second_slot(target: Target) -> None:
    counter = target.counter("a", Concurrency(2, MINUTE_US))
    for decision_id in ("dec_1", "dec_2", "dec_3"):
        assert ask(target, named(target, "one"), [counter], decision_id=decision_id).admitted
    assert target.decide([counter], [0]).outcomes[0].remaining == 1


def test_names_of_one_tenant_are_nothing_to_another(target: Target) -> None:
    counter = target.counter("a", FixedWindow(9, MINUTE_US))
    ask(target, named(target, "one"), [counter])
    target.tenant_id += "_other"
    other = target.counter("a", FixedWindow(9, MINUTE_US))
    assert not isinstance(ask(target, named(target, "one"), [other]), Repeat)


def test_a_name_is_free_again_after_a_minute_and_not_before() -> None:
    with memory_target() as target:  # of Redis, whose own clock forgets it, see test_redis_store
        counter = target.counter("a", FixedWindow(9, 3600 * SECOND_US))
        once = named(target, "one")
        ask(target, once, [counter])
        target.clock.now_us += MINUTE_US - 1
        assert isinstance(ask(target, once, [counter]), Repeat)
        target.clock.now_us += 1
        assert not isinstance(ask(target, once, [counter]), Repeat)
        assert isinstance(ask(target, once, [counter]), Repeat)
        assert target.decide([counter], [0]).outcomes[0].remaining == 7


def test_a_process_remembers_so_many_names_and_forgets_the_oldest(clock: ManualClock) -> None:
    decided = DecidedChecks(clock, most=100)
    verdict = Verdict(True, clock(), [])
    for number in range(250):
        decided.decide(Once(f"check {number}", "q"), "dec_1", [], lambda: verdict)
    assert len(decided) == 100
    assert decided.find(Once("check 249", "q")) is not None
    assert decided.find(Once("check 0", "q")) is None


def test_a_repeat_is_a_verdict_like_any_other(target: Target) -> None:
    counter = target.counter("a", SlidingWindow(5, MINUTE_US))
    first = ask(target, named(target, "one"), [counter])
    again = asdict(ask(target, named(target, "one"), [counter]))
    assert {name: again[name] for name in asdict(first)} == asdict(first)
