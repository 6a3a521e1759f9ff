"""Verdicts of checks that are decided once, remembered for a minute in this process.

Owns: that a check's second asking finds the first one's verdict, also while that is still on its way.
Does not own: how the check is decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from apishield.core.model import REPEAT_SECONDS, SECOND_US, Counter, Once, Repeat, Verdict
from apishield.core.ports import Clock

MOST_REMEMBERED = 100_000  # about 100 MB; of more in a minute the oldest are forgotten
FORGET_AT_ONCE = 16

Decide = Callable[[], Verdict | Awaitable[Verdict]]


class DecidedChecks:
    """The verdicts of the last minute, by the names of their checks, up to ``most``."""

    def __init__(self, clock: Clock, most: int = MOST_REMEMBERED) -> None:
        self._clock = clock
        self._most = most
        self._decided: dict[str, tuple[Repeat, int]] = {}  # oldest first, as all live equally long
        self._pending: dict[str, asyncio.Task[Repeat]] = {}

    def __len__(self) -> int:
        return len(self._decided)

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
        self._forget(now_us)
        self._decided.pop(once.key, None)  # one that is over may still be there, and would keep its place
        self._decided[once.key] = (repeat, now_us + REPEAT_SECONDS * SECOND_US)
        return repeat

    def _forget(self, now_us: int) -> None:
        for _ in range(FORGET_AT_ONCE):
            oldest = next(iter(self._decided), None)
            if oldest is None or (len(self._decided) < self._most and now_us < self._decided[oldest][1]):
                return
            del self._decided[oldest]
