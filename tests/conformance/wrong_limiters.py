"""Limiters that are wrong in one way each, and ours; all as adapters with simulated time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from apishield.conformance.adapter import Adapter, Told
from apishield.core.model import SECOND_US
from apishield.core.rate_limiter.parse import RateAlgorithm


class Exact(Adapter):
    """A log of all admissions under sliding windows: right, slow, and short."""

    simulated = True

    def __init__(self, rules: Sequence[RateAlgorithm]) -> None:
        self.rules = rules
        self.logs: defaultdict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)

    def hit(self, key: str, cost: int, now_us: int) -> Told:
        waits_us = [self.wait_us(key, number, cost, now_us) for number in range(len(self.rules))]
        if max(waits_us) > 0:
            self.refuse(key, cost, now_us)
            return False, max(waits_us) / SECOND_US
        for number in range(len(self.rules)):
            self.logs[key, number].append((now_us, cost))
        return True, None

    def wait_us(self, key: str, number: int, cost: int, now_us: int) -> int:
        """How long until ``cost`` fits; 0 where it does."""
        rule, log = self.rules[number], self.logs[key, number]
        room = rule.requests - cost
        for at_us, units in reversed(log):
            room -= units
            if room < 0:
                return max(0, at_us + rule.window_us - now_us)
        return 0

    def refuse(self, key: str, cost: int, now_us: int) -> None:
        """Nothing is charged."""


class TwoCounters(Exact):
    """Weighs the sum of the last aligned window by what is left of it."""

    def hit(self, key: str, cost: int, now_us: int) -> Told:
        (rule,) = self.rules
        window, into_us = divmod(now_us, rule.window_us)
        log = self.logs[key, 0]
        before, now = (sum(units for at_us, units in log if at_us // rule.window_us == window - ago) for ago in (1, 0))
        if before * (1 - into_us / rule.window_us) + now + cost > rule.requests:
            return False, None
        log.append((now_us, cost))
        return True, None


class ChargesRefusals(Exact):
    """Counts what it refuses."""

    def refuse(self, key: str, cost: int, now_us: int) -> None:
        self.logs[key, 0].append((now_us, cost))


class ChargesTheOthers(Exact):
    """Charges the limits that would have admitted."""

    def refuse(self, key: str, cost: int, now_us: int) -> None:
        for number in range(len(self.rules)):
            if not self.wait_us(key, number, cost, now_us):
                self.logs[key, number].append((now_us, cost))


class NotAtomic(Exact):
    """Looks, waits for its store, and then charges."""

    async def hit(self, key: str, cost: int, now_us: int) -> Told:  # type: ignore[override]
        wait_us = self.wait_us(key, 0, cost, now_us)
        await asyncio.sleep(0)
        if wait_us:
            return False, wait_us / SECOND_US
        self.logs[key, 0].append((now_us, cost))
        return True, None


class TellsTooSoon(Exact):
    """Rounds the wait down to tenths of the window."""

    def hit(self, key: str, cost: int, now_us: int) -> Told:
        admitted, seconds = super().hit(key, cost, now_us)
        tenth = self.rules[0].window_us / SECOND_US / 10
        return admitted, None if seconds is None else seconds // tenth * tenth


class TellsTooLate(Exact):
    """Tells to wait for a whole window, always."""

    def hit(self, key: str, cost: int, now_us: int) -> Told:
        admitted, seconds = super().hit(key, cost, now_us)
        return admitted, None if seconds is None else self.rules[0].window_us / SECOND_US


class Stingy(Exact):
    """Holds its window for 1 % longer than promised."""

    def wait_us(self, key: str, number: int, cost: int, now_us: int) -> int:
        return super().wait_us(key, number, cost, now_us - self.rules[number].window_us // 100)


class Generous(Exact):
    """Holds its window 1 % shorter than promised."""

    def wait_us(self, key: str, number: int, cost: int, now_us: int) -> int:
        return super().wait_us(key, number, cost, now_us + self.rules[number].window_us // 100)
