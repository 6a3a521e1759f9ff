"""The promises about checks that are asked again under one name: decided once, charged once, the same verdict for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from apishield.core.counter_keys import once_key
from apishield.core.model import (
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Once,
    Quota,
    Repeat,
    SlidingWindow,
    Verdict,
)
from apishield.core.outcome import Outcome
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


def remember(decided: DecidedChecks, tenant: str, numbers: range, limits: int = 1) -> None:
    limit = Limit(id="lim_a", name="a", algorithm=FixedWindow(5, MINUTE_US))
    counters = [Counter(f"as:{{{tenant}}}|{index}", limit) for index in range(limits)]
    verdict = Verdict(True, 0, [Outcome(True, 1, 0, 1)] * limits)
    for number in numbers:
        decided.decide(Once(once_key(tenant, f"check {number}"), "q"), "dec_1", counters, lambda: verdict)


def remembered(decided: DecidedChecks, tenant: str, number: int) -> bool:
    return decided.find(Once(once_key(tenant, f"check {number}"), "q")) is not None


def test_a_tenant_that_asks_much_forgets_its_own_oldest_and_nobody_elses(clock: ManualClock) -> None:
    decided = DecidedChecks(clock, most=600)
    remember(decided, "ten_b", range(10))
    remember(decided, "ten_a", range(250))
    assert all(remembered(decided, "ten_b", number) for number in range(10))
    assert [remembered(decided, "ten_a", number) for number in (149, 150, 249)] == [False, True, True]
    assert decided.units == 3 * 110


def test_what_a_process_remembers_is_bounded_by_what_it_holds_and_not_by_the_number_of_names(
    clock: ManualClock,
) -> None:
    decided = DecidedChecks(clock, most=4_000)
    remember(decided, "ten_a", range(100), limits=198)
    assert len(decided) == 10
    assert decided.units == 2_000


def test_where_all_is_taken_who_holds_most_forgets_first(clock: ManualClock) -> None:
    decided = DecidedChecks(clock, most=600)
    remember(decided, "ten_a", range(100))
    remember(decided, "ten_b", range(60))
    for number in range(40):
        remember(decided, f"ten_{number}", range(1))
        assert decided.units <= 600
    remember(decided, "ten_late", range(20))
    assert decided.units <= 600
    assert all(remembered(decided, f"ten_{number}", 0) for number in range(40))
    assert all(remembered(decided, "ten_late", number) for number in range(20))
    assert all(remembered(decided, "ten_b", number) for number in range(40, 60))


def test_a_minute_ends_although_nobody_asks_any_more(clock: ManualClock) -> None:
    planned: list[Callable[[], None]] = []

    def later(_: float, call: Callable[[], None]) -> bool:
        planned.append(call)
        return True

    decided = DecidedChecks(clock, later=later)
    remember(decided, "ten_a", range(2_500))
    assert len(planned) == 1
    clock.advance(61)
    while planned:
        planned.pop()()
    assert (len(decided), decided.units) == (0, 0)
    remember(decided, "ten_a", range(1))
    assert len(planned) == 1


def test_a_repeat_is_a_verdict_like_any_other(target: Target) -> None:
    counter = target.counter("a", SlidingWindow(5, MINUTE_US))
    first = ask(target, named(target, "one"), [counter])
    again = asdict(ask(target, named(target, "one"), [counter]))
    assert {name: again[name] for name in asdict(first)} == asdict(first)
