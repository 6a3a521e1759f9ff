"""What a decision lists of its limits: the ones that matter most, a bounded number, and how many more there were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apishield.core.headers import restriction
from apishield.core.model import Limit, Mode, SlidingWindow, Verdict
from apishield.core.outcome import Outcome
from apishield.core.policies import Meter
from apishield.core.rendering import MAX_IN_HEADERS, MAX_LISTED, render

MINUTE_US = 60_000_000


def _meter(number: int, mode: Mode = Mode.ENFORCE) -> Meter:
    return Meter(Limit(id=f"lim_{number}", name=f"n{number}", algorithm=SlidingWindow(100, MINUTE_US), mode=mode))


outcomes = st.one_of(
    st.builds(Outcome, st.just(True), st.integers(0, 99), st.just(0), st.integers(1, MINUTE_US)),
    st.builds(Outcome, st.just(False), st.just(0), st.one_of(st.none(), st.integers(1, MINUTE_US)), st.just(MINUTE_US)),
)


@given(enforced=st.lists(outcomes, max_size=60), shadows=st.lists(outcomes, max_size=60))
def test_the_most_restrictive_limits_are_listed_and_the_others_counted(
    enforced: list[Outcome], shadows: list[Outcome]
) -> None:
    meters = [_meter(number) for number in range(len(enforced))]
    meters += [_meter(number, Mode.SHADOW) for number in range(len(shadows))]
    admitted = all(outcome.admitted for outcome in enforced)
    rendered = render(meters, Verdict(admitted, 0, [*enforced, *shadows]))
    expected = sorted(zip(meters, enforced, strict=False), key=restriction)
    limits, shadow = rendered.limits(), rendered.shadow_limits()
    assert [(state.name, state.violated) for state in limits] == [
        (meter.limit.name, not outcome.admitted) for meter, outcome in expected[:MAX_LISTED]
    ]
    assert len(limits) + len(shadow) + rendered.omitted == len(meters)
    assert len(shadow) <= MAX_LISTED
    violated = sum(not outcome.admitted for outcome in shadows)
    assert sum(state.violated for state in shadow) == min(violated, MAX_LISTED)
    assert (rendered.code == "ok") == admitted
    shown = rendered.headers().get("RateLimit", "").split(", ") if enforced else []
    assert [item.split(";")[0] for item in shown] == [f'"{state.name}"' for state in limits[:MAX_IN_HEADERS]]


def test_a_refusal_by_one_limit_of_many_names_it_first() -> None:
    seen = [Outcome(True, 0, 0, MINUTE_US)] * 50 + [Outcome(False, 0, 5_000_000, MINUTE_US)]
    rendered = render([_meter(number) for number in range(51)], Verdict(False, 0, seen))
    assert (rendered.limits()[0].name, rendered.retry_after, rendered.omitted) == ("n50", 5.0, 31)
