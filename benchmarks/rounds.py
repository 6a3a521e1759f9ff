"""Contenders side by side: the same calls, in alternating rounds, by processor time; the median counts.

Processor time is what a check costs whoever pays for the machine, and other work on it disturbs that much less than a rate.
It counts all threads of the process, so a contender's timers and sweepers count too.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

SETTLE_SECONDS = 0.03  # lets one contender's background threads end before the next one's turn


class Contender(NamedTuple):
    """``ask(*arguments)`` is one check; the harness adds nothing but the loop around it."""

    ask: Callable[..., Any]
    arguments: Sequence[tuple[Any, ...]]


def nanoseconds_a_call(contenders: Mapping[str, Contender], rounds: int) -> dict[str, float]:
    """Processor time of one call of each contender; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds + 1):
        for name in names if turn % 2 else reversed(names):
            spent = _round(contenders[name])
            if turn:
                times[name].append(spent)
            time.sleep(SETTLE_SECONDS)
    return {name: median(times[name]) for name in names}


def _round(contender: Contender) -> float:
    ask, arguments = contender
    gc.collect()
    start = time.process_time_ns()
    for call in arguments:
        ask(*call)
    return (time.process_time_ns() - start) / len(arguments)
