"""Traffic as it happens: how much was decided since the last second, and some of it.

It is read from the ledger, so it is right with any number of nodes, and as fresh as the ledger is. A listener asks the
database twice a second at most; how many there are is bounded, and so is how long one stays. Whether it still may listen is
asked before each tick is read, and again before it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from apishield.analytics.periods import Segment
from apishield.analytics.steps import HOUR_S, MINUTE_S, SECOND_US, Step, floor
from apishield.core.ports import Clock
from apishield.errors import ProblemError
from apishield.services.analytics.decisions import DecisionService, Shown
from apishield.services.analytics.places import Places
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
RESERVED: Final = 25  # of them, for tenants that have none
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
        self.places = Places(
            "live views", of_tenant=MOST_OF_A_TENANT, of_all=MOST_OF_A_NODE, reserved=RESERVED, retry_after_seconds=10
        )

    def stop(self) -> None:
        """Ends every stream within the second, so that a shutdown need not wait for them."""
        self._stopping.set()

    async def follow(self, question: Question, may_listen: Callable[[], bool]) -> AsyncGenerator[Tick, None]:
        """A tick each second, the first one at once and empty.

        It ends after ten minutes, when the node stops, or as soon as ``may_listen`` says no.
        """
        seen: dict[int, Sums] | None = None
        newest_us = self._clock()
        end_us = newest_us + LONGEST_SECONDS * SECOND_US
        for _ in range(round(LONGEST_SECONDS / TICK_SECONDS)):  # as well as by the clock, which may be put back
            if self._stopping.is_set() or self._clock() >= end_us or not may_listen():
                return
            try:
                now = await self._minutes(question)
                came = Sums() if seen is None else _difference(now, seen)
                sample: Sequence[Shown] = ()
                if came.requests:
                    sample = await self._decisions.latest(question, newest_us, MOST_SAMPLED)
                    newest_us = max([newest_us, *(shown.stored.event.at_us + 1 for shown in sample)])
                seen = now
                tick = Tick(self._clock(), came, sample)
            except ProblemError as error:
                log.warning("live.unreadable", error=error.detail)
                tick = Tick(self._clock(), None)
            if not may_listen():  # the database may have taken long
                return
            yield tick
            await self._pause(TICK_SECONDS)

    async def _minutes(self, question: Question) -> dict[int, Sums]:
        """What the ledger has of the last minutes, by minute."""
        start_s = floor(self._clock() // SECOND_US, Step.MINUTE) - _LOOKED_BACK_S
        segment = Segment(Step.MINUTE, start_s, start_s + _LOOKED_BACK_S + HOUR_S)  # a node's clock may be ahead
        starts_s = range(segment.start_s, segment.end_s, MINUTE_S)
        plan = Plan(dims_of(question.selection, ()), [segment], question.selection, starts_s)
        async with self._database.read() as tx:
            reader = RollupReader(tx.connection, question.tenant_id, question.environment)
            rows: list[tuple[Group, Sums]] = await reader.sums(plan, ("place",))
        return {starts_s[int(place)]: sums for (place,), sums in rows}

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
