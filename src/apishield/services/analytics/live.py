"""Traffic as it happens: how much was decided since the last second, and some of it.

It is read from the ledger, so it is right with any number of nodes, and as fresh as the ledger is. A listener asks the
database twice a second at most; how many there are is bounded, and so is how long one stays: its token is looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Final

import msgspec
import structlog

from apishield.analytics.periods import Segment
from apishield.analytics.steps import HOUR_S, MINUTE_S, SECOND_US, Step, floor
from apishield.core.ports import Clock
from apishield.errors import ProblemError
from apishield.services.analytics.decisions import DecisionService, Shown
from apishield.services.analytics.planner import dims_of
from apishield.services.analytics.questions import Question
from apishield.stores.sql.analytics.plan import Group, Plan, Sums
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.database import Database

log = structlog.get_logger("apishield.live")

TICK_SECONDS: Final = 1.0
MOST_SAMPLED: Final = 20
MOST_OF_A_TENANT: Final = 10
MOST_OF_A_NODE: Final = 100
LONGEST_SECONDS: Final = 600
_LOOKED_BACK_S: Final = 10 * MINUTE_S  # what is taken later than this is counted, but not shown live


class Tick(msgspec.Struct, frozen=True):
    """What came since the last tick; ``None`` for ``sums`` where the ledger could not be read."""

    at_us: int
    sums: Sums | None
    sample: Sequence[Shown] = ()


class LiveService:
    """Follows the ledger for listeners. ``stop`` ends all of them."""

    def __init__(
        self,
        database: Database,
        decisions: DecisionService,
        clock: Clock,
        pause: Callable[[float], Awaitable[object]] | None = None,
    ) -> None:
        self._database = database
        self._decisions = decisions
        self._clock = clock
        self._stopping = asyncio.Event()
        self._pause = pause or self._wait
        self._listeners: Counter[str] = Counter()

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return self._listeners.total()

    def stop(self) -> None:
        """Ends every stream within the second, so that a shutdown need not wait for them."""
        self._stopping.set()

    @contextlib.contextmanager
    def admitted(self, tenant_id: str) -> Iterator[None]:
        """Room for one listener. Raises 429 where there is none."""
        if self._listeners[tenant_id] >= MOST_OF_A_TENANT or self.listeners >= MOST_OF_A_NODE:
            message = f"There are {self._listeners[tenant_id]} live views of this tenant open here already; close one."
            raise ProblemError("concurrency_exceeded", message, headers={"Retry-After": "10"})
        self._listeners[tenant_id] += 1
        try:
            yield
        finally:
            self._listeners[tenant_id] -= 1
            if not self._listeners[tenant_id]:
                del self._listeners[tenant_id]

    async def follow(self, question: Question) -> AsyncGenerator[Tick, None]:
        """A tick each second, the first one at once and empty; it ends after ten minutes, or when the node stops."""
        seen: dict[int, Sums] | None = None
        newest_us = self._clock()
        for _ in range(round(LONGEST_SECONDS / TICK_SECONDS)):
            if self._stopping.is_set():
                return
            try:
                now = await self._minutes(question)
                came = Sums() if seen is None else _difference(now, seen)
                sample: Sequence[Shown] = ()
                if came.requests:
                    sample = await self._decisions.latest(question, newest_us, MOST_SAMPLED)
                    newest_us = max([newest_us, *(shown.stored.event.at_us + 1 for shown in sample)])
                seen = now
                yield Tick(self._clock(), came, sample)
            except ProblemError as error:
                log.warning("live.unreadable", error=error.detail)
                yield Tick(self._clock(), None)
            await self._pause(TICK_SECONDS)

    async def _minutes(self, question: Question) -> dict[int, Sums]:
        """What the ledger has of the last minutes, by minute."""
        start_s = floor(self._clock() // SECOND_US, Step.MINUTE) - _LOOKED_BACK_S
        segment = Segment(Step.MINUTE, start_s, start_s + _LOOKED_BACK_S + HOUR_S)  # a node's clock may be ahead
        plan = Plan(dims_of(question.selection, ()), [segment], question.selection)
        async with self._database.read() as tx:
            reader = RollupReader(tx.connection, question.tenant_id, question.environment)
            rows: list[tuple[Group, Sums]] = await reader.sums(plan, ("middle",))
        return {int(middle): sums for (middle,), sums in rows}

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def _difference(now: dict[int, Sums], before: dict[int, Sums]) -> Sums:
    came = Sums()
    for minute, sums in now.items():
        came.add(sums)
        if minute in before:
            came.add(before[minute], -1)
    return came
