"""Contenders side by side: the same calls, by turns, by processor time; the median counts.

Processor time is what a check costs whoever pays for the machine, and other work on it disturbs that much less than a rate.
It counts all threads of the process, so a contender's timers and sweepers count too.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, NamedTuple

SETTLE_SECONDS = 0.03  # lets one contender's background threads end before the next one's turn
END_SECONDS = 10


class Contender(NamedTuple):
    """``ask(*arguments)`` is one check; the harness adds nothing but the loop around it."""

    ask: Callable[..., Any]
    arguments: Sequence[tuple[Any, ...]]


def nanoseconds_a_call(contenders: Mapping[str, Contender], rounds: int) -> dict[str, float]:
    """Processor time of one call of each contender; the first round only warms up."""
    turns = {name: partial(_round, contender) for name, contender in contenders.items()}
    for turn in turns.values():
        turn()
        time.sleep(SETTLE_SECONDS)
    return _medians(turns, rounds)


def nanoseconds_a_call_apart(makers: Mapping[str, Callable[[], Contender]], rounds: int) -> dict[str, float]:
    """As ``nanoseconds_a_call``, each contender made and asked in a process of its own.

    So none has another's threads counted, or its objects walked. One runs at a time all the same, and finds the processor's
    caches as the one before left them. Raises ``RuntimeError`` where one fails, which says in its own process why.
    """
    with ExitStack() as processes:
        turns = {name: processes.enter_context(_process(name, make)) for name, make in makers.items()}
        return _medians(turns, rounds)


def _medians(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Always in the same order: were it turned round each time, the first and the last would run twice in a row."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            times[name].append(turn())
            time.sleep(SETTLE_SECONDS)
    return {name: median(spent) for name, spent in times.items()}


@contextmanager
def _process(name: str, make: Callable[[], Contender]) -> Iterator[Callable[[], float]]:
    """A process with what ``make`` makes, warmed up, while the block lasts; gives what has it run one round."""
    context = multiprocessing.get_context("fork")  # what is made need not be pickled, nor loaded anew
    ours, its = context.Pipe()
    process = context.Process(target=_serve, args=(make, ours, its), name=name, daemon=True)
    process.start()
    its.close()

    def turn(ask: bool = True) -> float:
        try:
            if ask:
                ours.send(None)
            return float(ours.recv())
        except (EOFError, OSError):
            process.join(END_SECONDS)
            raise RuntimeError(f"{name} failed, see above (exit code {process.exitcode})") from None

    try:
        turn(ask=False)
        time.sleep(SETTLE_SECONDS)
        yield turn
    finally:
        ours.close()
        process.join(END_SECONDS)
        process.kill()


def _serve(make: Callable[[], Contender], parents: Connection, turns: Connection) -> None:
    """Runs a round to warm up, then one each time it is told to, until the parent has closed its end or is gone."""
    parents.close()  # a copy, which would keep the pipe open; those of processes started before go with this one
    contender = make()
    while True:
        turns.send(_round(contender))
        try:
            turns.recv()
        except EOFError:
            return


def _round(contender: Contender) -> float:
    ask, arguments = contender
    gc.collect()
    start = time.process_time_ns()
    for call in arguments:
        ask(*call)
    return (time.process_time_ns() - start) / len(arguments)
