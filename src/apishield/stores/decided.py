"""Verdicts of checks that are decided once, remembered for a minute in this process.

Owns: that a check's second asking finds the first one's verdict, also while that is still on its way.
Does not own: how the check is decided.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from apishield.core.counter_keys import hash_tag
from apishield.core.model import REPEAT_SECONDS, SECOND_US, Counter, Once, Repeat, Verdict
from apishield.core.ports import Clock

MOST_REMEMBERED = 250_000  # units of about 400 bytes, so 100 MB; of more in a minute the oldest are forgotten
CHECK_UNITS = 2  # a check takes two, and one for each of its limits
TENANT_SHARE = 2  # a half: more than that no tenant has
FORGET_AT_ONCE = 16
LOOK_AT_ONCE = 1_000
LOOK_SECONDS = 5.0

Later = Callable[[float, Callable[[], None]], bool]
Decide = Callable[[], Verdict | Awaitable[Verdict]]


class DecidedChecks:
    """The verdicts of the last minute, by the names of their checks, up to ``most`` units.

    A tenant has a half of them at most; beyond it its own oldest are forgotten. Where all are taken, the oldest of whoever
    has most are. ``later`` calls a function after some seconds, so that a minute ends although nobody asks any more.
    """

    def __init__(self, clock: Clock, most: int = MOST_REMEMBERED, later: Later | None = None) -> None:
        self._clock = clock
        self._most = most
        self._later = later or _later
        self._timed = False
        self._decided: dict[str, tuple[Repeat, int]] = {}  # oldest first, as all live equally long
        self._held_by: dict[str, dict[str, int]] = {}  # by tenant: units by name, oldest first
        self._units_of: dict[str, int] = {}
        self._units = 0
        self._pending: dict[str, asyncio.Task[Repeat]] = {}

    def __len__(self) -> int:
        return len(self._decided)

    @property
    def units(self) -> int:
        """How much is held, in units of about 400 bytes."""
        return self._units

    def find(self, once: Once) -> Repeat | Awaitable[Repeat] | None:
        """The verdict of an earlier check of the same name; an awaitable where it is still being decided."""
        found = self._decided.get(once.key)
        if found is not None:
            return found[0] if self._clock() < found[1] else None
        pending = self._pending.get(once.key)
        return None if pending is None else asyncio.shield(pending)

    def decide(
        self, once: Once, decision_id: str, counters: Sequence[Counter], decide: Decide
    ) -> Verdict | Awaitable[Verdict]:
        """The verdict of an earlier check of the same name, else what ``decide`` says, remembered.

        Nothing is remembered of one that fails: it charged nothing, and whoever waits for it fails with it.
        """
        earlier = self.find(once)
        if earlier is not None:
            return earlier
        verdict = decide()
        if isinstance(verdict, Verdict):
            self._remember(once, decision_id, counters, verdict)
            return verdict
        pending = asyncio.ensure_future(self._decide_later(once, decision_id, counters, verdict))
        self._pending[once.key] = pending
        pending.add_done_callback(lambda _: self._pending.pop(once.key, None))
        return self._first(pending)

    def clear(self) -> None:
        """Forgets all."""
        self._decided.clear()
        self._held_by.clear()
        self._units_of.clear()
        self._units = 0

    async def _decide_later(
        self, once: Once, decision_id: str, counters: Sequence[Counter], verdict: Awaitable[Verdict]
    ) -> Repeat:
        return self._remember(once, decision_id, counters, await verdict)

    async def _first(self, pending: asyncio.Task[Repeat]) -> Verdict:
        """The verdict for who asked first. It is decided even if they go, since others may wait for it."""
        repeat = await asyncio.shield(pending)
        return Verdict(repeat.admitted, repeat.now_us, repeat.outcomes, repeat.degraded, repeat.denied)

    def _remember(self, once: Once, decision_id: str, counters: Sequence[Counter], verdict: Verdict) -> Repeat:
        repeat = Repeat(
            **msgspec.structs.asdict(verdict),
            decision_id=decision_id,
            question=once.question,
            counters=tuple(counters),
        )
        now_us = self._clock()
        self._forget_over(now_us, FORGET_AT_ONCE)
        self._drop(once.key)  # one that is over may still be there, and would keep its place
        self._hold(once.key, (repeat, now_us + REPEAT_SECONDS * SECOND_US))
        self._make_room(hash_tag(once.key))
        self._look_later()
        return repeat

    def _hold(self, key: str, entry: tuple[Repeat, int]) -> None:
        tenant, units = hash_tag(key), CHECK_UNITS + len(entry[0].counters)
        self._decided[key] = entry
        self._held_by.setdefault(tenant, {})[key] = units
        self._units_of[tenant] = self._units_of.get(tenant, 0) + units
        self._units += units

    def _drop(self, key: str) -> None:
        if self._decided.pop(key, None) is None:
            return
        tenant = hash_tag(key)
        held = self._held_by[tenant]
        units = held.pop(key)
        self._units -= units
        self._units_of[tenant] -= units
        if not held:
            del self._held_by[tenant], self._units_of[tenant]

    def _make_room(self, tenant: str) -> None:
        while self._units_of.get(tenant, 0) > self._most // TENANT_SHARE:
            self._drop(next(iter(self._held_by[tenant])))
        while self._units > self._most:
            largest = max(self._units_of, key=self._units_of.__getitem__)
            for key in [*itertools.islice(self._held_by[largest], FORGET_AT_ONCE)]:
                self._drop(key)

    def _forget_over(self, now_us: int, at_most: int) -> None:
        for _ in range(at_most):
            oldest = next(iter(self._decided), None)
            if oldest is None or now_us < self._decided[oldest][1]:
                return
            self._drop(oldest)

    def _look_later(self) -> None:
        if self._decided and not self._timed:
            self._timed = self._later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Forgets what is over: some at a time, so that no check waits long, and soon again where there was more."""
        self._timed = False
        before = len(self._decided)
        self._forget_over(self._clock(), LOOK_AT_ONCE)
        if self._decided:
            is_behind = before - len(self._decided) == LOOK_AT_ONCE
            self._timed = self._later(0.01 if is_behind else LOOK_SECONDS, self._look)


def _later(seconds: float, call: Callable[[], None]) -> bool:
    """Calls on the running loop; returns whether there is one."""
    try:
        asyncio.get_running_loop().call_later(seconds, call)
    except RuntimeError:
        return False
    return True
