"""Memory and Redis answer the same, step by step: many limits on many checks, clocks that step back, limits that change."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from apishield.core.model import Algorithm, Concurrency, Counter, Mode, Quota, TokenBucket, Verdict
from apishield.core.ports import Hold
from tests.conformance.schedules import costs, pauses_us, rules, units, windows_us
from tests.conformance.targets import Target

FOR_EVER_SECONDS = 10**9
MAX_STEP_BACK_US = 900_000  # a forward jump that is taken back later than that may have forgotten something


@dataclass(frozen=True)
class Step:
    """One thing that happens: ``what`` to the counters at ``indexes``."""

    what: str
    pause_us: int
    indexes: tuple[int, ...]
    costs: tuple[int, ...]
    check: int
    changed: Algorithm


@st.composite
def changed(draw: st.DrawFn, rule: Algorithm) -> Algorithm:
    """The same algorithm with other numbers."""
    if isinstance(rule, Quota):
        return replace(rule, requests=draw(units), time_zone=draw(st.sampled_from(["UTC", "Asia/Tokyo"])))
    if isinstance(rule, Concurrency):
        return Concurrency(draw(st.integers(1, 8)), draw(windows_us))
    same_window = draw(st.booleans())
    other = replace(rule, requests=draw(units), window_us=rule.window_us if same_window else draw(windows_us))
    return replace(other, burst=draw(units)) if isinstance(other, TokenBucket) else other


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[tuple[Algorithm, dict[str, Any]]], list[Step]]:
    """A few limits in all modes, and what happens to them."""
    chosen = draw(st.lists(rules, min_size=1, max_size=4))
    modes: list[dict[str, Any]] = [
        {
            "mode": draw(st.sampled_from([Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW])),
            "charge_refused": draw(st.booleans()),
        }
        for _ in chosen
    ]
    steps = []
    for _ in range(draw(st.integers(0, 30))):
        first = draw(st.integers(0, len(chosen) - 1))
        rest = draw(st.lists(st.integers(0, len(chosen) - 1), unique=True, max_size=3))
        indexes = (first, *(index for index in rest if index != first))
        step_back = draw(st.integers(0, 9)) == 0
        steps.append(
            Step(
                what=draw(
                    st.sampled_from(
                        ["check"] * 8 + ["reserve"] * 4 + ["settle"] * 3 + ["change", "charge", "release", "reset"]
                    )
                ),
                pause_us=-draw(st.integers(1, MAX_STEP_BACK_US)) if step_back else draw(pauses_us(chosen[first])),
                indexes=indexes,
                costs=tuple(draw(costs(chosen[index])) for index in indexes),
                check=draw(st.integers(0, 30)),
                changed=draw(changed(chosen[first])),
            )
        )
    return list(zip(chosen, modes, strict=True)), steps


def _settled(target: Target, counters: list[Counter], step: Step) -> Verdict | None:
    """Settles what the step's check reserved, at other costs; how the counters stand then, under their present numbers."""
    key = target.record_key(step.check)
    held = target.run(target.store.held(key))
    if held is None:
        return None
    asked = [next(counter for counter in counters if counter.key == reserved.key) for reserved in held.counters]
    nothing = [0] * len(asked)
    target.clock.now_us = max(
        target.clock.now_us, target.decide(asked, nothing).now_us
    )  # the check's own time, for all
    held = replace(held, counters=tuple(asked))
    costs = [min(cost, 10**9) for _, cost in zip(asked, cycle(step.costs), strict=False)]
    assert target.run(target.store.settle(key, held, costs, f"dec_{step.check}"))
    return target.decide(asked, nothing)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scene=scenes())
def test_memory_and_redis_answer_the_same_step_by_step(
    twins: tuple[Target, Target], scene: tuple[list[tuple[Algorithm, dict[str, Any]]], list[Step]]
) -> None:
    limits, steps = scene
    counters = []
    for target in twins:
        target.new_world()
        counters.append([target.counter(str(index), rule, **mode) for index, (rule, mode) in enumerate(limits)])
    for step in steps:
        answers: list[Verdict | None] = []
        for target, mine in zip(twins, counters, strict=True):
            target.clock.now_us += step.pause_us
            asked = [mine[index] for index in step.indexes]
            match step.what:
                case "check":
                    answers.append(target.decide(asked, step.costs, f"dec_{step.check}"))
                case "reserve":
                    hold = Hold(target.record_key(step.check), FOR_EVER_SECONDS, (1,) * len(asked), settles=True)
                    answers.append(target.decide(asked, step.costs, f"dec_{step.check}", hold))
                case "settle":
                    answers.append(_settled(target, mine, step))
                case "change":
                    first = asked[0]
                    mine[step.indexes[0]] = replace(first, limit=replace(first.limit, algorithm=step.changed))
                case "charge":
                    plain = [counter for counter in asked if not isinstance(counter.limit.algorithm, Concurrency)]
                    target.run(target.store.charge(plain, [min(cost, 10**9) for cost in step.costs[: len(plain)]]))
                case "release":
                    target.run(target.store.release(asked, step.costs, f"dec_{step.check}"))
                case "reset":
                    target.run(target.store.reset(asked))
        assert answers[:1] == answers[1:]
