"""The work of one replay: reads the tenant's decisions, asks the policy about them, a slice at a time.

It runs on the loop of a node that decides checks meanwhile: after some tenths of a millisecond of work whoever else is ready
goes first, and after 2 ms it pauses for half as long, so that at least a third of the node stays free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from time import perf_counter
from typing import Final, Protocol

import msgspec

from apishield.analytics.steps import DAY_S, Step, ceil, floor
from apishield.core.model import SECOND_US
from apishield.core.replay import Replay, Span
from apishield.core.replay_counters import Recorded
from apishield.core.replay_questions import Surroundings
from apishield.core.replay_report import ReplayJob, missing_detail
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.turns import pause_of
from apishield.stores.sql.repositories.ledger_sums import LedgerSumsRepository

MOST_DECISIONS: Final = 20_000_000
_SLICE: Final = 64
_FORGOTTEN_AT_ONCE: Final = 500
_MINUTE_DAYS, _HOUR_DAYS = 7, 90  # how long the ledger keeps them

Pace = Callable[[float], Awaitable[object]]


class DecisionSource(Protocol):
    """Where recorded decisions are read."""

    def scan(
        self, tenant_id: str, from_us: int, to_us: int, *, results: bool
    ) -> AsyncGenerator[Sequence[Recorded], None]:
        """A tenant's decisions of a period, in the order of time, some at once; in constant memory.

        Without ``results`` they come with their settlements only.
        """
        ...


class Cancelled(Exception):  # noqa: N818  no fault
    """Somebody ended the replay."""


class Work:
    """A job at work. ``position_us`` is how far it came; setting ``stopped`` ends it with ``Cancelled``."""

    def __init__(self, job: ReplayJob, surroundings: Surroundings, in_force_since_us: int | None) -> None:
        self.job = job
        self.position_us = job.position_us
        self.stopped = False
        self._surroundings = surroundings
        self._in_force_since_us = in_force_since_us
        self._owed_seconds = 0.0

    async def run(self, database: Database, source: DecisionSource, pace: Pace, now_us: int) -> ReplayJob:
        """The job when it is done. Raises ``Cancelled``, and what the database raises."""
        job = self.job
        step, from_s, to_s = _tallied(job, now_us)
        async with database.read() as tx:  # before the decisions: what comes in meanwhile is not missing
            counted = await LedgerSumsRepository(tx.connection).by_code(job.tenant_id, step, from_s, to_s)
        replay = Replay(
            job.policy,
            Span(
                job.covered_from_us,
                job.covered_to_us,
                self._in_force_since_us,
                from_s * SECOND_US,
                to_s * SECOND_US,
            ),
            self._surroundings,
        )
        try:
            whole = await self._take_all(replay, source, pace)
        finally:
            await _forget(replay)
        return msgspec.structs.replace(
            job,
            status="done",
            covered_to_us=job.covered_to_us if whole else replay.now_us,
            position_us=replay.now_us,
            only_counted=missing_detail(counted, replay.tally) if whole else {},
            report=replay.report(),
        )

    async def _take_all(self, replay: Replay, source: DecisionSource, pace: Pace) -> bool:
        """Takes the decisions of the period. Returns whether it took all, and not only as many as one replay may."""
        job, taken = self.job, 0
        scan = source.scan(job.tenant_id, job.warm_from_us, job.covered_to_us, results=replay.needs_results)
        async with aclosing(scan) as lists:
            async for decisions in lists:
                for start in range(0, len(decisions), _SLICE):
                    await self._take(replay, decisions[start : start + _SLICE], pace)
                taken += len(decisions)
                if taken >= MOST_DECISIONS:
                    return False
        return True

    async def _take(self, replay: Replay, decisions: Sequence[Recorded], pace: Pace) -> None:
        if self.stopped:
            raise Cancelled
        began = perf_counter()
        replay.take(decisions)
        self.position_us = replay.now_us
        self._owed_seconds += (perf_counter() - began) / 2
        pause_seconds = pause_of(self._owed_seconds)
        if pause_seconds:
            self._owed_seconds -= pause_seconds
            await pace(pause_seconds)
        else:
            await asyncio.sleep(0)  # whoever else is ready goes first


async def _forget(replay: Replay) -> None:
    """Lets go of what a replay holds bit by bit, as to free all of it at once may take 150 ms."""
    is_more = True
    while is_more:
        is_more = replay.forget(_FORGOTTEN_AT_ONCE)
        await asyncio.sleep(0)


def _tallied(job: ReplayJob, now_us: int) -> tuple[Step, int, int]:
    """The whole buckets within the period, of the shortest step that the ledger still has: step, start and end."""
    age_days = (now_us - job.covered_from_us) / (DAY_S * SECOND_US)
    step = Step.MINUTE if age_days < _MINUTE_DAYS else Step.HOUR if age_days < _HOUR_DAYS else Step.DAY
    from_s = ceil(-(-job.covered_from_us // SECOND_US), step)
    return step, from_s, max(from_s, floor(job.covered_to_us // SECOND_US, step))
