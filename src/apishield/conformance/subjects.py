"""One subject under test: asks the target, keeps what came back, and waits in the target's time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

from apishield.conformance.judge import Hit, capacity, earliness_us, excess, recovery_us
from apishield.core.rate_limiter.parse import RateAlgorithm

SIMULATED_STEP_US = 1_000  # what most limiters' clocks can tell apart
WAKE_LATE_SECONDS = 0.001  # loops may wake as much too early as their clock's resolution is coarse


class Answer(msgspec.Struct, frozen=True):
    """What a target said; ``retry_after_us`` is ``None`` where it did not say."""

    admitted: bool
    retry_after_us: int | None = None
    resolution_us: int = 0


class Target(Protocol):
    """A limiter that can be asked. ``fresh``: every subject is one that nobody has used."""

    fresh: bool
    costs: bool
    simulated: bool

    async def begin(self, rules: Sequence[RateAlgorithm]) -> None:
        """Prepares to be asked under ``rules``, all of them at once."""
        ...

    async def subject(self) -> str:
        """Whom to ask about."""
        ...

    async def ask(self, subject: str, cost: int, now_us: int) -> Answer:
        """Asks once."""
        ...

    async def close(self) -> None:
        """Leaves the target as it was found."""
        ...


class Time(Protocol):
    """The time in which a target is asked."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, never backwards."""
        ...

    async def until(self, at_us: int) -> None:
        """Returns at ``at_us`` or later."""
        ...


class RealTime:
    """Time as it passes. A step of the system's clock does not disturb it."""

    def __init__(self) -> None:
        self._start_us = time.time_ns() // 1000
        self._start_ns = time.monotonic_ns()

    def now_us(self) -> int:
        """Microseconds since the Unix epoch."""
        return self._start_us + (time.monotonic_ns() - self._start_ns) // 1000

    async def until(self, at_us: int) -> None:
        """Sleeps until ``at_us``."""
        await asyncio.sleep(max(0, at_us - self.now_us()) / 1_000_000 + WAKE_LATE_SECONDS)


class SimulatedTime:
    """Time that passes only by being waited for, in whole milliseconds."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us - now_us % SIMULATED_STEP_US

    def now_us(self) -> int:
        """Microseconds since the Unix epoch."""
        return self._now_us

    async def until(self, at_us: int) -> None:
        """Is at ``at_us`` at once."""
        self._now_us = max(self._now_us, -(-at_us // SIMULATED_STEP_US) * SIMULATED_STEP_US)


class Subject:
    """A subject, its limits, and every hit so far."""

    def __init__(self, target: Target, name: str, rules: Sequence[RateAlgorithm], clock: Time) -> None:
        self.rules = rules
        self.costs = target.costs
        self.simulated = target.simulated
        self.hits: list[Hit] = []
        self.capacity = min(capacity(rule) for rule in rules)
        self.window_us = max(rule.window_us for rule in rules)
        self.shortest_us = min(rule.window_us for rule in rules)
        self.recovery_us = max(recovery_us(rule) for rule in rules)
        self._target = target
        self._name = name
        self._clock = clock

    async def hit(self, cost: int = 1) -> Hit:
        """Asks once."""
        sent_us = self._clock.now_us()
        answer = await self._target.ask(self._name, cost, sent_us)
        hit = Hit(sent_us, self._clock.now_us(), cost, answer.admitted, answer.retry_after_us, answer.resolution_us)
        self.hits.append(hit)
        return hit

    async def hit_together(self, times: int) -> list[Hit]:
        """Asks so many times at once."""
        return list(await asyncio.gather(*(self.hit() for _ in range(times))))

    async def hit_until_refused(self) -> Hit:
        """Asks until the answer is no, or long after it should have been; returns the last."""
        for _ in range(2 * self.capacity):
            hit = await self.hit()
            if not hit.admitted:
                break
        return hit

    def now_us(self) -> int:
        """The present."""
        return self._clock.now_us()

    async def until(self, at_us: int) -> None:
        """Waits."""
        await self._clock.until(at_us)

    async def until_recovered(self) -> None:
        """Waits until everything is there again, however the target may have rounded (0.2 % of a window more)."""
        last_us = max((hit.answered_us for hit in self.hits if hit.admitted), default=0)
        await self.until(last_us + self.recovery_us + self.window_us // 500)

    def slack_us(self, rule: RateAlgorithm) -> int:
        """What clocks may differ in a window: 500 ppm, the most that NTP makes them, or what a float rounds."""
        return 1 if self.simulated else rule.window_us // 2000

    def excess(self, rule: RateAlgorithm) -> int:
        """By how many units ``rule`` was certainly broken."""
        return excess(rule, self.hits, self.slack_us(rule))

    def earliness(self, refused: Hit) -> float:
        """By what share of the shortest window ``refused`` was certainly refused too early: 1 is a window or more."""
        shortest = min(self.rules, key=lambda rule: rule.window_us)
        early_us = earliness_us(self.rules, refused, self.hits, self.slack_us(shortest))
        return min(1.0, early_us / shortest.window_us)
