"""Schedules of checks that are hard on limiters. Each wants a subject that nobody has used, and says what it found.

Every schedule also leaves its hits with the subject, where the judge looks for excess and for refusals that came too early.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from enum import StrEnum

import msgspec

from apishield.conformance.subjects import SIMULATED_STEP_US, Subject

EARLY_SHARE = 0.001
"""A refusal may come so much of a window too early: what bounds the state of an exact sliding window."""


class Promise(StrEnum):
    """What a schedule tries."""

    RETRY_AT = "retry_after: admitted at it"
    RETRY_BEFORE = "retry_after: refused before it"
    REFUSALS_FREE = "refusals are free"
    RACE = "exact under a race"
    TOGETHER = "several limits, all or nothing"


class Finding(msgspec.Struct, frozen=True):
    """One trial of a promise. ``units`` that were withheld; of a race those admitted."""

    promise: Promise
    kept: bool
    units: int = 0


Schedule = Callable[[Subject, random.Random], Coroutine[None, None, list[Finding]]]


async def exhaust(subject: Subject, draw: random.Random) -> list[Finding]:
    """Uses all up at some phase of a window, then takes at once whatever comes back, for more than a window.

    An average over two windows takes the burst for spread out, and gives back room that is not there.
    """
    window_us = subject.window_us
    start_us = subject.now_us()
    await subject.until(start_us - start_us % window_us + window_us + int(draw.random() * window_us))
    start_us = subject.now_us()
    for step in range(33):
        await subject.until(start_us + step * window_us // 20)
        await subject.hit_until_refused()
    return []


async def wander(subject: Subject, draw: random.Random) -> list[Finding]:
    """Pauses and costs at random, some of them none, some about a window."""
    most = max(1, subject.capacity // 4)
    end_us = subject.now_us() + 5 * subject.window_us // 2
    while subject.now_us() < end_us:
        share = draw.choice((0.0, 0.001, 0.01, 0.05, 0.3, 0.999))
        await subject.until(subject.now_us() + int(draw.random() * share * subject.window_us))
        for _ in range(draw.randint(1, 1 + most)):
            await subject.hit(draw.randint(1, most) if subject.costs and draw.random() < 0.3 else 1)
    return []


async def creep(subject: Subject, draw: random.Random) -> list[Finding]:
    """Uses all up in steps of a fifth of a thousandth of a window, then asks just before each unit but the first leaves.

    Where charges are filed together, those that came first in their file leave too late.
    """
    step_us = max(SIMULATED_STEP_US, subject.shortest_us // 5000)
    start_us = subject.now_us()
    for step in range(subject.capacity):
        await subject.until(start_us + step * step_us)
        await subject.hit()
    for step in range(1, 2 * subject.capacity):
        await subject.until(start_us + subject.recovery_us + step * step_us - SIMULATED_STEP_US)
        await subject.hit()
    return []


async def come_back_in_time(subject: Subject, draw: random.Random) -> list[Finding]:
    """Comes back when a refusal said so (a clock's step later in simulated time): it must be admitted."""
    refused = await _refused(subject, draw)
    if refused is None:
        return []
    answered_us, wait_us, _ = refused
    await subject.until(answered_us + wait_us + SIMULATED_STEP_US * subject.simulated)
    return [Finding(Promise.RETRY_AT, (await subject.hit()).admitted)]


async def come_back_early(subject: Subject, draw: random.Random) -> list[Finding]:
    """Comes back just before: it must be refused, else the caller was told to wait for nothing."""
    refused = await _refused(subject, draw)
    if refused is None:
        return []
    _, _, end_us = refused
    left_us = end_us - subject.now_us()
    lead_us = SIMULATED_STEP_US if subject.simulated else min(subject.shortest_us // 40, left_us // 2)
    if left_us <= lead_us:
        return []
    await subject.until(end_us - lead_us)
    hit = await subject.hit()
    return [Finding(Promise.RETRY_BEFORE, not hit.admitted)] if hit.answered_us < end_us else []


async def insist(subject: Subject, draw: random.Random) -> list[Finding]:
    """Uses all up and goes on asking: once everything must be there again, everything must be.

    Then asks for more than there is left, where checks have costs: what is left must stay.
    """
    await subject.hit_until_refused()
    start_us = subject.now_us()
    for step in range(1, 4):
        for _ in range(subject.capacity):
            await subject.hit()
        await subject.until(start_us + step * subject.window_us // 4)
    await subject.until_recovered()
    hits = [await subject.hit() for _ in range(subject.capacity - 1)]
    if not (subject.costs and (await subject.hit(subject.capacity)).admitted):  # else a new window has begun
        hits.append(await subject.hit())
    withheld = sum(not hit.admitted for hit in hits)
    return [Finding(Promise.REFUSALS_FREE, not withheld, withheld)]


async def race(subject: Subject, draw: random.Random) -> list[Finding]:
    """Many clients at once, with nothing used, and again at the instant at which everything is there again."""
    findings = []
    for _ in range(2):
        await subject.until_recovered()
        hits = await subject.hit_together(min(100, 3 * subject.capacity))
        admitted = sum(hit.admitted for hit in hits)
        over = max(subject.excess(rule) for rule in subject.rules)
        early = max((subject.earliness(hit) for hit in hits if not hit.admitted), default=0.0)
        findings.append(Finding(Promise.RACE, not over and early <= EARLY_SHARE, admitted))
    return findings


async def squeeze(subject: Subject, draw: random.Random) -> list[Finding]:
    """Lets one limit refuse again and again: what the others did not admit they must not have charged."""
    withheld = 0
    for _ in range(3):
        for _ in range(2 * subject.capacity):
            hit = await subject.hit()
            withheld += not hit.admitted and subject.earliness(hit) > EARLY_SHARE
        await subject.until(subject.now_us() + subject.shortest_us + subject.shortest_us // 500)
    return [Finding(Promise.TOGETHER, not withheld, withheld)]


async def _refused(subject: Subject, draw: random.Random) -> tuple[int, int, int] | None:
    """Uses all up bit by bit, until a refusal tells when to come back.

    Returns when it was answered, how long it said to wait, and the instant before which no check can be admitted.
    """
    start_us = subject.now_us()
    share = draw.uniform(0.1, 0.6)
    for step in range(2 * subject.capacity):
        await subject.until(start_us + int(step * share * subject.shortest_us / subject.capacity))
        hit = await subject.hit()
        if not hit.admitted:
            if hit.retry_after_us is None:
                return None
            return hit.answered_us, hit.retry_after_us, hit.sent_us + hit.retry_after_us - hit.resolution_us
    return None
