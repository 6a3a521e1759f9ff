"""Runs the schedules against a target: side by side where subjects are free to be had, one after the other where not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from apishield.conformance.schedules import (
    Finding,
    Schedule,
    come_back_early,
    come_back_in_time,
    creep,
    exhaust,
    insist,
    race,
    squeeze,
    wander,
)
from apishield.conformance.score import Score, score
from apishield.conformance.subjects import RealTime, SimulatedTime, Subject, Target, Time
from apishield.core.rate_limiter.parse import RateAlgorithm

ROUND: Sequence[Schedule] = (
    exhaust, exhaust, exhaust, wander, creep,
    come_back_in_time, come_back_early, come_back_in_time, come_back_early, insist, race,
)  # fmt: skip
"""One round; ``squeeze`` is added where there are several limits. With a single subject each comes once."""

SIMULATED_ROUNDS = 100
SIMULATED_START_US = 1_800_000_000_000_000


async def run(
    target: Target,
    rules: Sequence[RateAlgorithm],
    *,
    rounds: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Runs ``rounds`` (1; in simulated time 100) of all schedules under ``rules``, and scores what came of it.

    ``progress`` hears how many schedules are done, of how many. The same ``seed`` draws the same schedules.
    Raises ``APIShieldError`` where the target can't be asked.
    """
    await target.begin(rules)
    clock: Time = SimulatedTime(SIMULATED_START_US) if target.simulated else RealTime()
    rounds = rounds or (SIMULATED_ROUNDS if target.simulated else 1)
    once = ROUND if target.fresh else list(dict.fromkeys(ROUND))
    schedules = [*once, *([squeeze] if len(rules) > 1 else [])] * rounds
    runs: list[tuple[str, Subject]] = []
    findings: list[Finding] = []

    async def play(number: int, schedule: Schedule) -> None:
        subject = Subject(target, await target.subject(), rules, clock)
        findings.extend(await schedule(subject, random.Random(f"{seed}/{number}")))  # noqa: S311  the same again, not secret
        runs.append((schedule.__name__.replace("_", " "), subject))
        progress(len(runs), len(schedules))
        if not target.fresh:
            await subject.until_recovered()

    if target.fresh and not target.simulated:
        try:
            async with asyncio.TaskGroup() as group:
                for number, schedule in enumerate(schedules):
                    group.create_task(play(number, schedule))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the others were cut off by it
    else:
        for number, schedule in enumerate(schedules):
            await play(number, schedule)
    return score(rules, runs, findings)
