"""Many counters, one verdict: every enforced limit admits a check and is charged, or none is.

Shadow limits never refuse; they are charged exactly when the enforced ones admit and they themselves would. A refused
check charges nothing, save the violated limits that say ``charge_refused``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mypy_extensions import mypyc_attr

from apishield.core.compiled import untracked
from apishield.core.model import (
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Mode,
    Quota,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.core.outcome import Outcome
from apishield.core.rate_limiter import concurrency, fixed_window, quota, sliding_window, token_bucket
from apishield.core.rate_limiter.states import State

STATES: Mapping[type[Algorithm], type[State]] = {
    FixedWindow: fixed_window.State,
    SlidingWindow: sliding_window.State,
    TokenBucket: token_bucket.State,
    Concurrency: concurrency.State,
    Quota: quota.State,
}


_SHADOW = Mode.SHADOW  # an enumeration's member is slow to look up


def new_state(rule: Algorithm) -> State:
    """The state of a counter that nobody has asked yet."""
    return STATES[type(rule)](rule)


@mypyc_attr(acyclic=True)
class Found:
    """The ``states`` of counters that are asked again and again, and the ``rules`` that they were under when they were found.

    ``known`` is where that was. They are still those to be asked while each is under its rule: who takes one away from there
    puts it under none.
    """

    known: dict[str, State]
    states: list[State]
    rules: list[Algorithm]

    def __init__(self, known: dict[str, State], states: list[State], rules: list[Algorithm]) -> None:
        self.known, self.states, self.rules = known, states, rules


Found = untracked(Found)  # type: ignore[misc]


def decide_found(
    found: Found, counters: Sequence[Counter], costs: Sequence[int], now_us: int, check_id: str
) -> Verdict | None:
    """``decide_known`` over states that were found before; ``None`` also where some of them are not to be asked any more."""
    states, rules = found.states, found.rules
    if len(states) == 1:
        state, cost = states[0], costs[0]
        if state.rule is not rules[0] or state.seen_us > now_us:
            return None
        if state.taken + cost <= state.requests or state.fits(now_us, cost):
            return Verdict(True, now_us, [state.charge(now_us, cost, check_id)])
        return _refuse_one(counters[0], state, cost, now_us, check_id)
    at = 0
    for state in states:
        if state.rule is not rules[at] or state.seen_us > now_us:
            return None
        at += 1  # noqa: SIM113  as said above
    return _decide_several(counters, states, costs if isinstance(costs, list) else list(costs), now_us, check_id)


def decide_known(
    known: dict[str, State], counters: Sequence[Counter], costs: Sequence[int], now_us: int, check_id: str = ""
) -> Verdict | None:
    """Decides one check over the states that are ``known`` by key, in the common case; ``None`` where it is not.

    That is where a counter is new, has changed its numbers or has seen a later time: find the states then, bring them up to
    date, and ``decide``. This is the hot path: one limit makes no lists, many take two loops, in which to count is cheaper than
    ``enumerate`` or ``zip``. No comprehensions, which would make cells of what they use: a third of a check (Python 3.11).
    Raises ``quota.Unseeded``.
    """
    if len(counters) == 1:
        counter, cost = counters[0], costs[0]
        rule, state = counter.limit.algorithm, known.get(counter.key)
        if state is None or state.rule is not rule or state.seen_us > now_us:
            return None
        if state.taken + cost <= state.requests or state.fits(now_us, cost):
            return Verdict(True, now_us, [state.charge(now_us, cost, check_id)])
        return _refuse_one(counter, state, cost, now_us, check_id)
    states: list[State] = []
    for counter in counters:
        rule, state = counter.limit.algorithm, known.get(counter.key)
        if state is None or state.rule is not rule or state.seen_us > now_us:
            return None
        states.append(state)
    return _decide_several(counters, states, costs if isinstance(costs, list) else list(costs), now_us, check_id)


def _decide_several(
    counters: Sequence[Counter], states: list[State], costs: list[int], now_us: int, check_id: str
) -> Verdict:
    """Decides over lists, whose items compiled code takes without asking what they lie in."""
    at = 0
    for state in states:
        cost = costs[at]
        if state.taken + cost > state.requests and not state.fits(now_us, cost):
            return _decide_misfits(counters, states, costs, now_us, check_id)
        at += 1  # noqa: SIM113  as said above
    outcomes: list[Outcome] = []
    at = 0
    for state in states:
        outcomes.append(state.charge(now_us, costs[at], check_id))
        at += 1  # noqa: SIM113  likewise
    return Verdict(True, now_us, outcomes)


def _refuse_one(counter: Counter, state: State, cost: int, now_us: int, check_id: str) -> Verdict:
    limit = counter.limit
    if limit.charge_refused or limit.mode is _SHADOW:
        return _decide_misfits((counter,), (state,), (cost,), now_us, check_id)
    return Verdict(False, now_us, [state.look(now_us, cost, False)])


def decide(
    counters: Sequence[Counter], states: Sequence[State], costs: Sequence[int], now_us: int, check_id: str = ""
) -> Verdict:
    """Decides one check at ``now_us`` over ``states``, which are parallel to ``counters`` and ``costs``.

    Charges all states or none; the caller holds them to itself meanwhile. Raises ``quota.Unseeded`` before any is charged.
    """
    for state, cost in zip(states, costs, strict=True):
        if not state.fits(now_us, cost):
            return _decide_misfits(counters, states, costs, now_us, check_id)
    outcomes = [state.charge(now_us, cost, check_id) for state, cost in zip(states, costs, strict=True)]
    return Verdict(True, now_us, outcomes)


def _decide_misfits(
    counters: Sequence[Counter], states: Sequence[State], costs: Sequence[int], now_us: int, check_id: str
) -> Verdict:
    """Decides where some counter does not admit."""
    asked = [(state, cost, state.fits(now_us, cost)) for state, cost in zip(states, costs, strict=True)]
    violated = [
        (state, cost, counter.limit.charge_refused)
        for counter, (state, cost, fits) in zip(counters, asked, strict=True)
        if not fits and counter.limit.mode is not _SHADOW
    ]
    if not violated:
        outcomes = [
            state.charge(now_us, cost, check_id) if fits else state.look(now_us, cost, False)
            for state, cost, fits in asked
        ]
        return Verdict(True, now_us, outcomes)
    for state, cost, charge_refused in violated:
        if charge_refused:
            state.penalize(now_us, cost)
    return Verdict(False, now_us, [state.look(now_us, cost, fits) for state, cost, fits in asked])
