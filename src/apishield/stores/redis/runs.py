"""Which run of a server answers: another run, or another server in its place, may have forgotten what was charged.

A restart loses what was not on disk, a fail-over what the replica had not received. Nobody can say how much, so verdicts over
limits that reach back to before it are marked ``degraded`` for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from apishield.core.model import SECOND_US, Algorithm, Concurrency, Counter, FixedWindow, Quota, TokenBucket

log = structlog.get_logger("apishield.store")

LONGEST_MARKED_US: Final = 3600 * SECOND_US
"""Longer windows are marked for an hour: by then, whoever looks at the marks has seen them."""


NO_EVICTION: Final = "Set `maxmemory-policy noeviction`: an evicted counter admits a whole limit again."


class Facts(msgspec.Struct, frozen=True):
    """What a server says of itself; empty where it does not say (``INFO`` is not allowed)."""

    run_id: str = ""
    uptime_seconds: int = 0
    maxmemory_policy: str = ""

    @property
    def evicts(self) -> bool:
        """Whether it gives up counters when it is full."""
        return self.maxmemory_policy not in {"", "noeviction"}


def facts_of(reply: object) -> Facts:
    """What an answer to ``INFO`` says."""
    if not isinstance(reply, bytes):
        return Facts()
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines())
    told = {name: value.strip() for name, _, value in lines}
    uptime = told.get("uptime_in_seconds", "")
    return Facts(told.get("run_id", ""), int(uptime) if uptime.isdecimal() else 0, told.get("maxmemory_policy", ""))


class Runs:
    """The runs of one server, or of whoever takes its place; calls ``forgot`` when one may have forgotten charges."""

    def __init__(self, forgot: Callable[[], None]) -> None:
        self.facts = Facts()
        self._forgot = forgot
        self._ago_us: int | None = None
        self._lost_at_us: int | None = None

    def learn(self, facts: Facts, silent_seconds: float) -> None:
        """Takes note of who answers, after ``silent_seconds`` in which nobody was heard."""
        before, self.facts = self.facts, facts
        if before.run_id and facts.run_id and before.run_id != facts.run_id:
            # A server that is up for longer was a replica: when it took over within the silence, nobody knows.
            restarted = facts.uptime_seconds <= silent_seconds
            self.lose(facts.uptime_seconds if restarted else 0)
        if facts.evicts and not before.evicts:
            log.warning("store.evicts", maxmemory_policy=facts.maxmemory_policy, fix=NO_EVICTION)

    def lose(self, ago_seconds: int = 0) -> None:
        """Charges may have been lost, so long ago."""
        self._ago_us = ago_seconds * SECOND_US
        self._forgot()
        log.warning(
            "store.may_have_forgotten",
            seconds_ago=ago_seconds,
            consequence="rate limits may admit what they had counted; their decisions are marked degraded for one window",
        )

    def lost_at_us(self, now_us: int) -> int | None:
        """When charges may have been lost, in the time of verdicts, which is ``now_us``."""
        if self._ago_us is not None:
            self._lost_at_us, self._ago_us = now_us - self._ago_us, None
        if self._lost_at_us is not None and now_us - self._lost_at_us >= LONGEST_MARKED_US:
            self._lost_at_us = None
        return self._lost_at_us

    @property
    def may_have_forgotten(self) -> bool:
        """Whether charges may have been lost not long ago."""
        return self._ago_us is not None or self._lost_at_us is not None


def reach_back(counters: Sequence[Counter], now_us: int, lost_at_us: int) -> bool:
    """Whether a charge right before ``lost_at_us`` may still count in one of ``counters`` at ``now_us``.

    In quotas it does not: they are rebuilt from the ledger.
    """
    return any(now_us - lost_at_us < _reach_us(counter.limit.algorithm, now_us) for counter in counters)


def _reach_us(rule: Algorithm, now_us: int) -> int:
    if isinstance(rule, Quota):
        return 0
    if isinstance(rule, FixedWindow):
        return now_us % rule.window_us
    if isinstance(rule, Concurrency):
        return rule.timeout_us
    if isinstance(rule, TokenBucket):
        return rule.burst * rule.window_us // rule.requests
    return rule.window_us
