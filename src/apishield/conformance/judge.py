"""What a limiter certainly did wrong, seen from outside.

Nobody outside knows when a limiter decided, only that it was after the request was sent and before its answer came. So every
fault is claimed only where it follows from *every* instant in between: slow networks and busy machines can hide a fault,
they can't make one up. ``slack_us`` allows for clocks that do not run alike, over one window.

An excess counts only admissions that must lie in one window; a refusal is false only where even all that may have lain in
the window leaves room. Fixed windows may be aligned to any instant, or begin with a first request: the kindest reading counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from apishield.core.model import FixedWindow, TokenBucket
from apishield.core.rate_limiter.parse import RateAlgorithm


class Hit(msgspec.Struct, frozen=True):
    """One check as its caller saw it. ``retry_after_us`` is what a refusal told, to ``resolution_us`` (rounded up)."""

    sent_us: int
    answered_us: int
    cost: int
    admitted: bool
    retry_after_us: int | None = None
    resolution_us: int = 0


def capacity(rule: RateAlgorithm) -> int:
    """Units that a limiter admits at once when nothing was used."""
    return rule.burst if isinstance(rule, TokenBucket) else rule.requests


def recovery_us(rule: RateAlgorithm) -> int:
    """How long after the last admission all of ``rule`` is there again."""
    return -(-rule.burst * rule.window_us // rule.requests) if isinstance(rule, TokenBucket) else rule.window_us


def excess(rule: RateAlgorithm, hits: Iterable[Hit], slack_us: int) -> int:
    """By how many units the busiest stretch certainly went over ``rule``; 0 where none did."""
    admitted = sorted((hit for hit in hits if hit.admitted and hit.cost), key=lambda hit: hit.sent_us)
    if isinstance(rule, FixedWindow):
        most = min(_aligned_most(rule, admitted, slack_us), _begun_most(rule, admitted, slack_us))
        return max(0, most - rule.requests)
    return max((_excess_from(rule, admitted[first:], slack_us) for first in range(len(admitted))), default=0)


def earliness_us(rules: Sequence[RateAlgorithm], refused: Hit, hits: Iterable[Hit], slack_us: int) -> int:
    """By how long ``refused`` was certainly refused too early; 0 where one of ``rules`` may account for it.

    A refusal that nothing accounts for is early by a window at least.
    """
    earlier = sorted(
        (hit for hit in hits if hit.admitted and hit.cost and hit.sent_us <= refused.answered_us),
        key=lambda hit: hit.answered_us,
    )
    return min(_earliness_us(rule, refused, earlier, slack_us) for rule in rules)


def _excess_from(rule: RateAlgorithm, admitted: Sequence[Hit], slack_us: int) -> int:
    """The excess of the stretches that begin with the first of ``admitted``."""
    start_us, end_us, units, worst = admitted[0].sent_us, 0, 0, 0
    for hit in admitted:
        if isinstance(rule, TokenBucket):
            end_us = max(end_us, hit.answered_us)
            units += hit.cost
            worst = max(worst, units - rule.burst - rule.requests * (end_us - start_us + slack_us) // rule.window_us)
        elif hit.sent_us >= start_us + rule.window_us:
            break
        elif hit.answered_us < start_us + rule.window_us - slack_us:
            units += hit.cost
            worst = max(worst, units - rule.requests)
    return worst


def _aligned_most(rule: FixedWindow, admitted: Sequence[Hit], slack_us: int) -> int:
    """The most units that one of evenly spaced windows must have admitted, whatever they are aligned to."""
    window_us = rule.window_us - slack_us
    instants = {instant_us for hit in admitted for instant_us in (hit.sent_us + 1, hit.answered_us + 1)}
    return min((_fullest(admitted, at_us % rule.window_us, rule.window_us, window_us) for at_us in instants), default=0)


def _fullest(admitted: Sequence[Hit], offset_us: int, period_us: int, window_us: int) -> int:
    """Units certainly in the fullest of the windows that begin at ``offset_us`` and every ``period_us`` later."""
    units: Counter[int] = Counter()
    for hit in admitted:
        window, into_us = divmod(hit.sent_us - offset_us, period_us)
        if into_us + hit.answered_us - hit.sent_us < window_us:
            units[window] += hit.cost
    return max(units.values(), default=0)


def _begun_most(rule: FixedWindow, admitted: Sequence[Hit], slack_us: int) -> int:
    """The most units that one window must have admitted, where each begins with the first admission after the last."""
    most = units = 0
    earliest_us = latest_us = -rule.window_us  # when the present window began
    for hit in admitted:
        if hit.answered_us < earliest_us + rule.window_us - slack_us:
            units += hit.cost
        elif hit.sent_us >= latest_us + rule.window_us:
            earliest_us, latest_us, units = hit.sent_us, hit.answered_us, hit.cost
        else:  # in the old window, or the first of a new one
            earliest_us, latest_us, units = (
                max(hit.sent_us, earliest_us + rule.window_us - slack_us),
                hit.answered_us,
                0,
            )
        most = max(most, units)
    return most


def _earliness_us(rule: RateAlgorithm, refused: Hit, earlier: Sequence[Hit], slack_us: int) -> int:
    """By how long ``rule`` does not account for ``refused``, after the admissions ``earlier``, sorted by answer."""
    if refused.cost > capacity(rule):
        return 0
    unexplained_us = max(rule.window_us, refused.sent_us - earlier[0].sent_us if earlier else 0)
    if isinstance(rule, TokenBucket):
        missing, last_us = 0, 0  # in units of 1/window_us
        for hit in earlier:
            missing = max(0, missing - (hit.answered_us - last_us) * rule.requests) + hit.cost * rule.window_us
            last_us = hit.answered_us
        fits_us = last_us + (missing - (rule.burst - refused.cost) * rule.window_us) // rule.requests
        return min(unexplained_us, max(0, refused.sent_us - fits_us - slack_us))
    room = rule.requests - refused.cost
    for hit in reversed(earlier):
        room -= hit.cost
        if room < 0:
            return max(0, refused.sent_us - rule.window_us - hit.answered_us - slack_us)
    return unexplained_us
