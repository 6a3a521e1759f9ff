"""The counters of a replay: the states of live counters, without a store around them.

Owns: which states a replay holds, when slots that were given back come free. Does not own: how they decide
(``rate_limiter``), which decisions they are asked about (``replay``).
"""

from __future__ import annotations

import heapq
from typing import Final, Protocol

from apishield.core.events import DecisionEvent, ResultEvent
from apishield.core.model import SECOND_US, Concurrency, Counter
from apishield.core.rate_limiter.concurrency import State as Slots
from apishield.core.rate_limiter.verdict import State, decide, decide_known, new_state

MOST_COUNTERS: Final = 200_000
_FEWEST_SWEPT: Final = 4_096


class Recorded(Protocol):
    """A decision as it was kept, and what was reported of it."""

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


class ReplayCounters:
    """Counters by key: those that may still say something, up to ``MOST_COUNTERS``."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._sweep_at = _FEWEST_SWEPT
        self._swept_us = 0
        self._releases: list[tuple[int, str, str, int]] = []  # when, counter, who, how much: of slots that were freed

    def decide(self, counter: Counter, cost: int, now_us: int, recorded: Recorded) -> bool | None:
        """Whether the counter admits, and is charged; ``None`` where there was no room to tell."""
        if self._releases:
            self._release(now_us)
        check_id = _check_id(recorded) if isinstance(counter.limit.algorithm, Concurrency) else ""
        verdict = decide_known(self._states, (counter,), (cost,), now_us, check_id)
        if verdict is None:
            state = self._state(counter, now_us)
            if state is None:
                return None
            verdict = decide((counter,), (state,), (cost,), now_us, check_id)
        if check_id and verdict.admitted:
            self._hold(counter, cost, recorded, check_id)
        return verdict.admitted

    def recall(self, counter: Counter, cost: int, now_us: int, recorded: Recorded, *, admitted: bool) -> None:
        """Charges what was really charged."""
        if self._releases:
            self._release(now_us)
        state = self._state(counter, now_us)
        if state is None:
            return
        state.fits(now_us, 0)
        if admitted:
            check_id = _check_id(recorded)
            state.charge(now_us, cost, check_id)
            if isinstance(counter.limit.algorithm, Concurrency):
                self._hold(counter, cost, recorded, check_id)
        elif counter.limit.charge_refused:
            state.penalize(now_us, cost)

    def _state(self, counter: Counter, now_us: int) -> State | None:
        """The counter's state, under the numbers that hold now; ``None`` where there is no room for a new one."""
        state = self._states.get(counter.key)
        if state is None:
            if len(self._states) >= self._sweep_at:
                self._forget_idle(now_us)
            if len(self._states) >= MOST_COUNTERS:
                return None
            state = self._states[counter.key] = new_state(counter.limit.algorithm)
        elif state.rule is not counter.limit.algorithm:
            state.adopt(counter.limit.algorithm, now_us)
        return state

    def _forget_idle(self, now_us: int) -> None:
        """Lets go of counters that say no more than new ones would; seldom, as it walks all of them."""
        if now_us < self._swept_us + SECOND_US:
            return
        self._swept_us = now_us
        self._states = {key: state for key, state in self._states.items() if state.expires_at_us() > now_us}
        self._sweep_at = min(MOST_COUNTERS, max(_FEWEST_SWEPT, 2 * len(self._states)))

    def _hold(self, counter: Counter, cost: int, recorded: Recorded, check_id: str) -> None:
        """Notes when the slots of an admitted check were given back: at its report, else they time out."""
        if recorded.result is not None and cost:
            heapq.heappush(self._releases, (recorded.result.at_us, counter.key, check_id, cost))

    def _release(self, now_us: int) -> None:
        while self._releases and self._releases[0][0] <= now_us:
            _, key, check_id, cost = heapq.heappop(self._releases)
            state = self._states.get(key)
            if isinstance(state, Slots):
                state.release(check_id, cost)


def _check_id(recorded: Recorded) -> str:
    return f"{recorded.spool}:{recorded.event.sequence}"
