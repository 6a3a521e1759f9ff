"""Replay: what a policy would have done to decisions that were recorded, by the very steps that decide live ones.

Owns: which recorded decisions the policy would have been asked about, the clock that follows them, what is counted.
Does not own: where decisions are recorded, the order they come in (``services.replay``), how a limit decides
(``rate_limiter``).

A live verdict charges all limits of a check or none, so a policy only ever meets what the rest of the configuration let
through. Hence the policy is asked about every decision that was allowed, and about those that this same policy refused: how
it answers may differ under other numbers. What anything else refused would have been refused in any case, and is left out.

Counters begin empty. Decisions from before the period (``warm_from_us`` on) fill them first, and are not counted: where the
policy was in force all that while as it is replayed, with what was really charged, else with what it would have admitted.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from apishield.core.abuse_detector.addresses import parse_address
from apishield.core.endpoints import ANY_METHOD
from apishield.core.events import PEEK, TEST, DecisionEvent, SettlementEvent, Units
from apishield.core.model import (
    MAX_UNITS,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Mode,
    SlidingWindow,
    TokenBucket,
)
from apishield.core.policies import CompiledPolicy, Facts, Meter, PolicyPlan, Selection
from apishield.core.records import Environment, Policy
from apishield.core.replay_counters import Asked, Recorded, ReplayCounters
from apishield.core.replay_report import ReplayReport, ReplayTotals

_MOST_CALLERS: Final = 100_000
_TOO_MUCH: Final = MAX_UNITS + 1


class Surroundings(msgspec.Struct, frozen=True):
    """What is known of the tenant besides its traffic, as it is now: events don't say it.

    ``scopes_of`` says which scopes a key holds, ``endpoints`` are the catalogue's, as limits count them.
    """

    plan: str
    scopes_of: Callable[[str], tuple[str, ...]]
    endpoints: frozenset[str] = frozenset()


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
        enforced = _enforced(policy)
        compiled = CompiledPolicy(enforced)
        self.now_us = 0
        self.tally: Tally[str] = Tally()
        self._decisions = 0
        self._policy = enforced
        self._span = span
        self._surroundings = surroundings
        self._plan = PolicyPlan(surroundings.plan, [compiled])
        self._by_address = "ip" in policy.per
        self._by_endpoint = "endpoint" in policy.per
        self._unit = policy.limit.unit
        self._by_path = policy.match.path is not None
        self._by_customer = "customer" in policy.per
        # Where nothing else decides which counter is asked, who asked for what is remembered: callers come again and again.
        plain = not policy.overrides and not policy.match.attributes and not any(":" in part for part in policy.per)
        self._asked: dict[tuple[object, ...], tuple[Counter, Meter] | None] | None = {} if plain else None
        self._callers: dict[tuple[str | None, int], Selection] = {}
        self._counters = ReplayCounters()
        self._totals = ReplayTotals()

    def take(self, decisions: Iterable[Recorded]) -> None:
        """Asks the policy about some decisions more. Those outside the period only fill the counters, or nothing."""
        for recorded in decisions:
            event = recorded.event
            if event.at_us >= self._span.to_us or event.flags & PEEK:
                continue
            self.now_us = max(self.now_us, event.at_us)
            counts = event.at_us >= self._span.from_us
            if counts:
                self._decisions += 1
                if self._span.tally_from_us <= event.at_us < self._span.tally_to_us:
                    self.tally[event.code] += 1
            if event.code != "ok" and not self._refused_it(event):
                if counts:
                    self._totals.refused_already += 1
                continue
            asked = self._ask_again(event)
            if asked is not None:
                self._judge(recorded, *asked, counts=counts)

    def report(self) -> ReplayReport:
        """What the policy would have done to what was taken so far."""
        return self._totals.report(self._decisions, self._unit)

    def _refused_it(self, event: DecisionEvent) -> bool:
        """Whether it was this policy that refused."""
        return event.refusal is not None and event.refusal.policy_id == self._policy.id

    def _ask_again(self, event: DecisionEvent) -> tuple[Counter, Meter] | None:
        """``_ask``, or what it said of another decision that no part of the policy tells from this one."""
        known = self._asked
        if known is None:
            return self._ask(event)
        place = (
            event.key_id,
            event.flags & TEST,
            event.method,
            event.path if self._by_path else None,
            event.endpoint if self._by_endpoint else None,
            event.address if self._by_address else None,
            event.customer_id if self._by_customer else None,
        )
        try:
            return known[place]
        except KeyError:
            if len(known) >= _MOST_CALLERS:
                known.clear()
            asked = known[place] = self._ask(event)
            return asked

    def _ask(self, event: DecisionEvent) -> tuple[Counter, Meter] | None:
        """The counter of a decision to which the policy applies."""
        selection = self._callers.get((event.key_id, event.flags & TEST))
        if selection is None:
            selection = self._selection(event)
        if selection.is_empty:
            return None
        facts = Facts(
            tenant_id=event.tenant_id,
            environment=Environment.TEST if event.flags & TEST else Environment.LIVE,
            method=event.method,
            path=event.path,
            endpoint=self._endpoint(event) if self._by_endpoint else None,
            ip=_counted(event.address) if self._by_address else None,
            key_id=event.key_id,
            customer_id=event.customer_id,
            attributes=event.attributes,
        )
        for policy in selection.matching(facts):
            return policy.ask(facts, self.now_us)
        return None

    def _selection(self, event: DecisionEvent) -> Selection:
        """Whether the policy is for a caller of this kind at all; remembered by caller."""
        if len(self._callers) >= _MOST_CALLERS:
            self._callers.clear()
        key_id = event.key_id
        selection = self._callers[key_id, event.flags & TEST] = self._plan.selection(
            has_key=key_id is not None,
            environment=Environment.TEST if event.flags & TEST else Environment.LIVE,
            scopes=() if key_id is None else self._surroundings.scopes_of(key_id),
        )
        return selection

    def _endpoint(self, event: DecisionEvent) -> str | None:
        """What limits counted the endpoint by; an event has only its template, whose method may be another's or any."""
        method, template = event.method, event.endpoint
        if template is None:
            return None
        for candidate in (method, "GET" if method == "HEAD" else ANY_METHOD, ANY_METHOD):
            subject = f"{candidate} {template}"
            if subject in self._surroundings.endpoints:
                return subject
        return f"{method} {template}"

    def _judge(self, recorded: Recorded, counter: Counter, meter: Meter, *, counts: bool) -> None:
        event, settlement = recorded.event, recorded.settlement
        cost = _cost(event.units, meter)
        settled = None if settlement is None else _settled(settlement, meter, cost)
        asked = Asked(counter, cost, recorded, settled)
        since_us = self._span.in_force_since_us
        if not counts and since_us is not None and event.at_us >= since_us:
            self._counters.recall(asked, self.now_us, admitted=event.code == "ok")
            return
        admitted = self._counters.decide(asked, self.now_us)
        if counts:
            self._totals.add(counter, cost, event.at_us, admitted)


def warm_from_us(policy: Policy, from_us: int) -> int:
    """From when on decisions may still have counted at ``from_us``, under any limit of ``policy``."""
    limits = (policy.limit, *(override.limit for override in policy.overrides))
    return min(_began_us(limit, from_us) for limit in limits)


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


def _counted(address: str | None) -> str | None:
    parsed = None if address is None else parse_address(address)
    return None if parsed is None else parsed.counted
