"""Replay: what a policy would have done to decisions that were recorded, by the very steps that decide live ones.

Owns: which recorded decisions the policy would have been asked about, the clock that follows them, what is counted.
Does not own: where decisions are recorded, the order they come in (``services.replay``), which counter each is asked of
(``replay_questions``), how a limit decides (``rate_limiter``).

A live verdict charges all limits of a check or none, so a policy only ever meets what the rest of the configuration let
through. Hence the policy is asked about every decision that was allowed, and about those that this same policy refused: how
it answers may differ under other numbers. What anything else refused would have been refused in any case, and is left out.

Counters begin empty. Decisions from before the period (``warm_from_us`` on) fill them first, and are not counted: where the
policy was in force all that while as it is replayed, with what was really charged, else with what it would have admitted.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from apishield.core.events import PEEK, DecisionEvent, SettlementEvent, Units
from apishield.core.model import (
    MAX_UNITS,
    Concurrency,
    FixedWindow,
    Limit,
    Mode,
    SlidingWindow,
    TokenBucket,
)
from apishield.core.policies import Meter
from apishield.core.records import Policy
from apishield.core.replay_counters import Asked, Recorded, ReplayCounters
from apishield.core.replay_questions import Question, Questions, Surroundings
from apishield.core.replay_report import ReplayReport, ReplayTotals

_TOO_MUCH: Final = MAX_UNITS + 1


class Span(msgspec.Struct, frozen=True):
    """The period, [from, to), and when the policy as it is replayed came into force (``None``: it never was).

    Within [``tally_from_us``, ``tally_to_us``) decisions are counted by code, to be held against the ledger's sums.
    """

    from_us: int
    to_us: int
    in_force_since_us: int | None = None
    tally_from_us: int = 0
    tally_to_us: int = 0


class Replay:
    """Asks one policy about recorded decisions, which are given in the order in which they were made.

    ``now_us`` is the simulated clock: the latest decision that was taken. ``tally`` counts decisions by code (``Span``).
    """

    def __init__(self, policy: Policy, span: Span, surroundings: Surroundings) -> None:
        self.now_us = 0
        self.tally: Tally[str] = Tally()
        self._decisions = 0
        self._policy = policy
        self._unit = policy.limit.unit
        self._span = span
        self._questions = Questions(_enforced(policy), surroundings)
        self._counters = ReplayCounters()
        self._totals = ReplayTotals()

    @property
    def needs_results(self) -> bool:
        """Whether it matters when callers got their answers: slots come free then. Else only settlements do."""
        return any(isinstance(limit.algorithm, Concurrency) for limit in _limits(self._policy))

    def take(self, decisions: Iterable[Recorded]) -> None:
        """Asks the policy about some decisions more. Those outside the period only fill the counters, or nothing."""
        span, tally, ask = self._span, self.tally, self._questions.ask
        for recorded in decisions:
            event = recorded.event
            at_us, code = event.at_us, event.code
            if at_us >= span.to_us or event.flags & PEEK:
                continue
            self.now_us = now_us = max(self.now_us, at_us)
            counts = at_us >= span.from_us
            if counts:
                self._decisions += 1
                if span.tally_from_us <= at_us < span.tally_to_us:
                    tally[code] += 1
            if code != "ok" and not self._refused_it(event):
                if counts:
                    self._totals.refused_already += 1
                continue
            question = ask(event, now_us)
            if question is not None:
                self._judge(recorded, question, counts=counts)

    def report(self) -> ReplayReport:
        """What the policy would have done to what was taken so far."""
        return self._totals.report(self._decisions, self._unit)

    def forget(self, at_most: int) -> bool:
        """Lets go of some of what is only needed to ask. Returns whether there is more: to free all at once takes long."""
        return self._questions.forget(at_most) or self._counters.forget(at_most)

    def _refused_it(self, event: DecisionEvent) -> bool:
        """Whether it was this policy that refused."""
        return event.refusal is not None and event.refusal.policy_id == self._policy.id

    def _judge(self, recorded: Recorded, question: Question, *, counts: bool) -> None:
        event, settlement, counter, meter = recorded.event, recorded.settlement, question.counter, question.meter
        cost = _cost(event.units, meter)
        asked = Asked(
            counter,
            cost,
            recorded,
            meter.takes_slots,
            None if settlement is None else _settled(settlement, meter, cost),
        )
        since_us = self._span.in_force_since_us
        if not counts and since_us is not None and event.at_us >= since_us:
            self._counters.recall(asked, self.now_us, admitted=event.code == "ok")
            return
        admitted = self._counters.decide(asked, self.now_us)
        if counts:
            self._totals.add(counter, cost, event.at_us, admitted)


def warm_from_us(policy: Policy, from_us: int) -> int:
    """From when on decisions may still have counted at ``from_us``, under any limit of ``policy``."""
    return min(_began_us(limit, from_us) for limit in _limits(policy))


def _limits(policy: Policy) -> Iterator[Limit]:
    yield policy.limit
    for override in policy.overrides:
        yield override.limit


def _began_us(limit: Limit, now_us: int) -> int:
    match limit.algorithm:
        case FixedWindow(_, window_us):
            return now_us - now_us % window_us
        case SlidingWindow(_, window_us):
            return now_us - window_us
        case TokenBucket(requests, window_us, burst):
            return now_us - -(-burst * window_us // requests)
        case Concurrency(_, timeout_us):
            return now_us - timeout_us
    return now_us


def _enforced(policy: Policy) -> Policy:
    """The policy as if it were in force: a replay of a shadow asks what enforcing it would do."""
    limit = msgspec.structs.replace(policy.limit, mode=Mode.ENFORCE)
    overrides = tuple(
        msgspec.structs.replace(override, limit=msgspec.structs.replace(override.limit, mode=Mode.ENFORCE))
        for override in policy.overrides
    )
    return msgspec.structs.replace(policy, enabled=True, mode=Mode.ENFORCE, limit=limit, overrides=overrides)


def _cost(units: Units, meter: Meter) -> int:
    """What a decision would have been charged, in the limit's unit; as the engine counts it."""
    if isinstance(units, int):
        return min(units * meter.cost, _TOO_MUCH) if meter.unit == "requests" else 0
    return min(units.get(meter.unit, 0) * meter.cost, _TOO_MUCH)


def _settled(settlement: SettlementEvent, meter: Meter, cost: int) -> int:
    """What was charged in the end; units that the settlement does not name stay as they were estimated."""
    if settlement.released:
        return 0
    units = settlement.units.get(meter.unit)
    return cost if units is None else min(units * meter.cost, MAX_UNITS)
