"""Quota: so many units in each calendar day or month of a time zone.

A quota outlives every store: what was used lies in a durable ledger, and a store that knows nothing about a period (a new
one, or one whose memory was lost) must ask before it decides. Such a counter is *unseeded*, which is not the same as zero.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from mypy_extensions import mypyc_attr

from apishield.core.compiled import untracked
from apishield.core.model import Quota
from apishield.core.outcome import Outcome
from apishield.core.rate_limiter import states

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Unseeded(Exception):  # noqa: N818  a state, not a fault: the store seeds the counter and asks again
    """The counter knows nothing about the period that holds ``now``; seed it first."""


class Standing(NamedTuple):
    """Units ``used`` in the period that began at ``start_us``, when last charged at ``seen_us``."""

    start_us: int
    used: int
    seen_us: int


@mypyc_attr(acyclic=True)
class State(states.State):
    """Units ``used`` in the period from ``start_us`` to ``end_us``; ``seen_us`` is the last charge."""

    start_us: int = 0
    end_us: int = 0
    used: int = 0

    def __init__(self, rule: Quota) -> None:
        self.rule, self.requests = rule, rule.requests
        self.taken = states.NEVER_SURE  # its period may be over, and the next one unseeded

    def seed(self, start_us: int, end_us: int, used: int) -> None:
        """Begins the period from ``start_us`` to ``end_us`` with what the ledger knows; an earlier period is over then."""
        self.start_us, self.end_us, self.used = start_us, end_us, used

    def fits(self, now_us: int, cost: int) -> bool:
        """Whether ``cost`` units more are within the quota. Raises ``Unseeded`` in a period of which it knows nothing."""
        if now_us >= self.end_us:
            raise Unseeded
        return self.used + cost <= self.requests or not cost

    def charge(self, now_us: int, cost: int, check_id: str = "") -> Outcome:
        """Counts ``cost`` units, even past the quota, and says how the counter stands then."""
        if now_us >= self.end_us:
            raise Unseeded
        if cost:
            self.used += cost
            self.seen_us = now_us
        return outcome(self.requests, now_us, 0, True, self.used, self.end_us)

    def look(self, now_us: int, cost: int, fits: bool) -> Outcome:
        """How the counter stands for a check that is not charged."""
        return outcome(self.requests, now_us, cost, fits, self.used, self.end_us)

    def penalize(self, now_us: int, cost: int) -> None:
        """Counts a refused check: the quota is used up then."""
        self.charge(now_us, max(0, min(cost, self.requests - self.used)))

    def refund(self, now_us: int, charged_at_us: int, cost: int) -> None:
        """Takes back ``cost`` units charged at ``charged_at_us``; nothing, once their period is over."""
        if self.start_us <= charged_at_us and now_us < self.end_us:
            self.used = max(0, self.used - cost)

    def adopt(self, rule: Quota, now_us: int) -> None:
        """Goes on under changed numbers; another time zone or kind of period counts from the next period on."""
        self.rule, self.requests = rule, rule.requests

    def expires_at_us(self) -> int:
        """From when on this state says no more than none at all."""
        return self.end_us


State = untracked(State)  # type: ignore[misc]


def outcome(requests: int, now_us: int, cost: int, fits: bool, used: int, end_us: int) -> Outcome:
    """Says what ``used`` units in the period that ends at ``end_us`` mean for a check of ``cost``."""
    left_us = end_us - now_us
    retry_after_us = 0 if fits else left_us if cost <= requests else None
    return Outcome(fits, requests - used, retry_after_us, left_us)


def period_of(rule: Quota, now_us: int) -> tuple[int, int]:
    """The calendar day or month around ``now_us`` in the quota's time zone, as [start, end) in microseconds."""
    first = _first_day(rule, now_us)
    if rule.period == "day":
        return _to_us(first), _to_us(first + timedelta(days=1))
    return _to_us(first), _to_us((first + timedelta(days=31)).replace(day=1))


def period_name(rule: Quota, now_us: int) -> str:
    """What people call the period around ``now_us``: ``2026-11``, or ``2026-11-23`` where it is a day."""
    return _first_day(rule, now_us).strftime("%Y-%m-%d" if rule.period == "day" else "%Y-%m")


def _first_day(rule: Quota, now_us: int) -> datetime:
    """Midnight of the day, or of the first day of the month, around ``now_us``."""
    local = (EPOCH + now_us * MICROSECOND).astimezone(ZoneInfo(rule.time_zone))
    today = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return today if rule.period == "day" else today.replace(day=1)


def _to_us(moment: datetime) -> int:
    return (moment.astimezone(UTC) - EPOCH) // MICROSECOND
