"""The counters of a replay: the states of live counters, without a store around them.

Owns: which states a replay holds, when slots are given back and reservations are settled. Does not own: how states decide
(``rate_limiter``), which decisions they are asked about (``replay``).
"""

from __future__ import annotations

import heapq
from typing import Final, Protocol

import msgspec

from apishield.core.events import DecisionEvent, ResultEvent, SettlementEvent
from apishield.core.model import SECOND_US, Concurrency, Counter
from apishield.core.rate_limiter.concurrency import State as Slots
from apishield.core.rate_limiter.states import State
from apishield.core.rate_limiter.verdict import decide, decide_known, new_state

MOST_COUNTERS: Final = 200_000
_FEWEST_SWEPT: Final = 16_384
_MOST_UNSWEPT: Final = 150_000  # the rest fills up while these are looked through
_SWEPT_AT_ONCE: Final = 4
_SWEPT_WHERE_FULL: Final = 16


class Recorded(Protocol):
    """A decision as it was kept, and what became known of it."""

    @property
    def spool(self) -> int:
        """Of the process that decided."""
        ...

    @property
    def event(self) -> DecisionEvent:
        """The decision."""
        ...

    @property
    def result(self) -> ResultEvent | None:
        """What the API answered, where it was reported."""
        ...

    @property
    def settlement(self) -> SettlementEvent | None:
        """What it cost in the end, where it had reserved."""
        ...


class Asked(msgspec.Struct, gc=False):
    """What a counter is asked about a recorded decision. ``settled`` is the cost in the end, where it was settled."""

    counter: Counter
    cost: int
    recorded: Recorded
    takes_slots: bool
    settled: int | None


class ReplayCounters:
    """Counters by key: those that may still say something, up to ``MOST_COUNTERS``."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._sweep_at = _FEWEST_SWEPT
        self._swept_us = 0
        self._unswept: list[str] = []
        self._later: list[tuple[int, int, int, _Charge]] = []  # a heap: when, and by whom for those of one moment

    def __len__(self) -> int:
        """How many are held."""
        return len(self._states)

    def decide(self, asked: Asked, now_us: int) -> bool | None:
        """Whether the counter admits, and is charged; ``None`` where there was no room to tell."""
        if self._later:
            self._settle(now_us)
        counter, takes_slots = asked.counter, asked.takes_slots
        counters, costs, check_id = (counter,), (asked.cost,), _check_id(asked.recorded) if takes_slots else ""
        verdict = decide_known(self._states, counters, costs, now_us, check_id)
        if verdict is None:
            state = self._state(counter, now_us)
            if state is None:
                return None
            verdict = decide_known(self._states, counters, costs, now_us, check_id) or decide(
                counters, (state,), costs, now_us, check_id
            )
        if verdict.admitted and (takes_slots or asked.settled is not None):
            self._note(asked, now_us, check_id)
        return verdict.admitted

    def recall(self, asked: Asked, now_us: int, *, admitted: bool) -> None:
        """Charges what was really charged."""
        if self._later:
            self._settle(now_us)
        counter, cost = asked.counter, asked.cost
        state = self._state(counter, now_us)
        if state is None:
            return
        state.fits(now_us, 0)
        if admitted:
            check_id = _check_id(asked.recorded)
            state.charge(now_us, cost, check_id)
            self._note(asked, now_us, check_id)
        elif counter.limit.charge_refused:
            state.penalize(now_us, cost)

    def forget(self, at_most: int) -> bool:
        """Lets go of some counters, whatever they say. Returns whether there are more."""
        self._unswept.clear()
        for _ in range(min(at_most, len(self._states))):
            self._states.popitem()
        return bool(self._states)

    def _state(self, counter: Counter, now_us: int) -> State | None:
        """The counter's state, under the numbers that hold now; ``None`` where there is no room for a new one."""
        state = self._states.get(counter.key)
        if state is None:
            self._forget_idle(now_us)
            if len(self._states) >= MOST_COUNTERS:
                return None
            state = self._states[counter.key] = new_state(counter.limit.algorithm)
        elif state.rule is not counter.limit.algorithm:
            state.adopt(counter.limit.algorithm, now_us)
        return state

    def _forget_idle(self, now_us: int) -> None:
        """Lets go of counters that say no more than new ones would: looks at a few for each new one, at more where it is full.

        To walk all of them at once would hold up whoever is checked meanwhile.
        """
        is_full = len(self._states) >= MOST_COUNTERS
        if not self._unswept:
            if len(self._states) < self._sweep_at or now_us < self._swept_us + SECOND_US:
                return
            self._swept_us = now_us
            self._unswept = [*reversed(self._states)]  # ends with the oldest, of which most are idle
        for _ in range(min(_SWEPT_WHERE_FULL if is_full else _SWEPT_AT_ONCE, len(self._unswept))):
            key = self._unswept.pop()
            if self._states[key].expires_at_us() <= now_us:
                del self._states[key]
        if not self._unswept:
            self._sweep_at = min(_MOST_UNSWEPT, max(_FEWEST_SWEPT, 2 * len(self._states)))

    def _note(self, asked: Asked, now_us: int, check_id: str) -> None:
        """Notes what became of a charge later: slots come free with the report, the cost is settled."""
        recorded, charge = asked.recorded, _Charge(asked.counter, check_id, asked.cost, asked.settled, now_us)
        if asked.settled is not None and recorded.settlement is not None:
            at_us = recorded.settlement.at_us
        elif recorded.result is not None and asked.takes_slots:
            at_us = recorded.result.at_us
        else:
            return
        heapq.heappush(self._later, (at_us, recorded.spool, recorded.event.sequence, charge))

    def _settle(self, now_us: int) -> None:
        """Does what was due by now, as a store does when a check is settled."""
        while self._later and self._later[0][0] <= now_us:
            at_us, _, _, charge = heapq.heappop(self._later)
            counter, settled = charge.counter, charge.settled
            state = self._states.get(counter.key)
            if isinstance(counter.limit.algorithm, Concurrency):
                if isinstance(state, Slots):
                    state.release(charge.check_id, charge.cost)
            elif settled is not None and settled > charge.cost:
                state = self._state(counter, now_us) if state is None else state  # it was idle, and is no more
                if state is not None:
                    then_us = max(at_us, state.seen_us)
                    state.fits(then_us, 0)
                    state.charge(then_us, settled - charge.cost)
            elif settled is not None and state is not None:
                state.refund(max(at_us, state.seen_us), charge.at_us, charge.cost - settled)


class _Charge(msgspec.Struct, frozen=True, gc=False):
    """What was charged to a counter, and what it came to."""

    counter: Counter
    check_id: str
    cost: int
    settled: int | None
    at_us: int


def _check_id(recorded: Recorded) -> str:
    return f"{recorded.spool}:{recorded.event.sequence}"
