"""Many subjects in memory: bytes for each, the rate among a million of them, and the work of forgetting them.

python -m benchmarks.subjects [--subjects 1000000]

Owns the clock, so nothing waits. Bytes are what the process grew by, a subject's key and the books about it included. Each
algorithm has a process of its own: memory that another one gave back would hide what this one takes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from apishield.core.model import SECOND_US, Counter, Limit
from apishield.stores.memory import MemoryStore
from apishield.stores.room import Room
from benchmarks.node import BenchNode, bench_node
from benchmarks.peers import ours_limits
from benchmarks.rounds import Contender, nanoseconds_a_call
from benchmarks.rules import KINDS, Kind, Rule, subjects_in_random_order
from benchmarks.table import print_table

PAGE_BYTES = 4096
RULE = Rule(1000, 60)
FEW = 1000
CALLS = 20_000
ROUNDS = 5
WHOLE = "a whole check, per address"
CHECKS = 100_000
CHECK_ROUNDS = 5
START_US = 1_800_000_000 * SECOND_US
SLOTS_FILLED = 1001


class OwnClock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Many subjects in memory.")
    parser.add_argument("--subjects", type=int, default=1_000_000, help="live subjects (1000000)")
    parser.add_argument("--kind", choices=[*KINDS, WHOLE], help="measures one row and prints JSON")
    options = parser.parse_args(arguments)
    if options.kind == WHOLE:
        print(json.dumps(asyncio.run(_measure_checks(options.subjects))))
        return
    if options.kind is not None:
        print(json.dumps(_measure(options.kind, options.subjects)))
        return
    rows = []
    for kind in (*KINDS, WHOLE):
        command = [sys.executable, "-m", "benchmarks.subjects", "--subjects", str(options.subjects), "--kind", kind]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(_row(kind, json.loads(output.splitlines()[-1])))
        print(f"  {kind}", file=sys.stderr)
    print_table(
        f"On memory, {options.subjects:,} live subjects of {RULE.requests:,} requests in {RULE.seconds} s",
        [
            "",
            "bytes a subject",
            "bytes, full",
            f"µs, {FEW:,} subjects",
            f"µs, {options.subjects:,}",
            "fall of the rate",
            "µs to forget one",
            "worst check ms",
        ],
        rows,
    )


def _row(kind: str, said: dict[str, float]) -> list[str]:
    cells = [kind]
    for name, digits in (("bytes", 0), ("bytes_full", 0), ("few_us", 2), ("many_us", 2)):
        cells.append(f"{said[name]:,.{digits}f}" if name in said else "-")
    cells.append(f"{1 - said['few_us'] / said['many_us']:.0%}")
    return [*cells, *(f"{said[name]:.2f}" if name in said else "-" for name in ("forget_us", "worst_ms"))]


async def _measure_checks(subjects: int) -> dict[str, float]:
    """Whole checks of addresses without a key, from bytes to bytes, which the tenant's first policy counts each by itself.

    Of the many most have not been asked about for a while: their addresses are read and spelt anew.
    """
    async with bench_node(OwnClock()) as few, bench_node(OwnClock()) as many:
        calls = {}
        for name, node, count in (("few_us", few, FEW), ("many_us", many, subjects)):
            store = node.runtime.store
            assert isinstance(store, MemoryStore)
            store._room = Room(
                count + FEW, shared=False
            )  # else strangers of one tenant get a quarter of it, and share one
            await node.warm_up(_body(0))
            ask = _asking(node)
            for subject in range(1, count):
                ask(_body(subject))
            assert len(store) >= count
            calls[name] = Contender(ask, [(_body(subject),) for subject in subjects_in_random_order(count, CHECKS)])
        gc.collect()
        gc.freeze()
        spent = nanoseconds_a_call(calls, CHECK_ROUNDS)
    return {name: nanoseconds / 1000 for name, nanoseconds in spent.items()}


def _asking(node: BenchNode) -> Callable[[bytes], None]:
    turn_over = node.turns()

    def ask(body: bytes) -> None:
        node.ask(body)
        turn_over()

    return ask


def _body(subject: int) -> bytes:
    address = f"2001:db8:{subject >> 16:x}:{subject & 0xFFFF:x}::1"
    return json.dumps({"method": "GET", "path": "/v1/orders/17", "ip": address}).encode()


def _measure(kind: Kind, subjects: int) -> dict[str, float]:
    found: dict[str, float] = {}
    limit = ours_limits(kind, [RULE])[0]
    if kind == "sliding window":
        found["bytes_full"] = _bytes_when_full(limit)
    clock = OwnClock()
    store = MemoryStore(clock, max_counters=subjects + FEW, shared=False)
    before = _resident_bytes()
    for subject in range(subjects):
        store.decide([_counter(limit, subject)], [1])
    found["bytes"] = (_resident_bytes() - before) / subjects
    gc.freeze()  # as a service that has run for a while: what lives long is not looked at again
    few_clock = OwnClock()
    few = MemoryStore(few_clock, max_counters=FEW, shared=False)
    few_calls = _calls(limit, FEW, CALLS)
    many_calls = _calls(limit, subjects, CALLS)
    times: dict[str, list[float]] = {"few": [], "many": []}
    for turn in range(ROUNDS + 1):
        for name, its_store, calls in (("few", few, few_calls), ("many", store, many_calls)):
            spent = _round(its_store, calls)
            if turn:
                times[name].append(spent)
    found["few_us"], found["many_us"] = median(times["few"]), median(times["many"])
    found["forget_us"], found["worst_ms"] = _forget(store, clock, limit, subjects)
    return found


def _counter(limit: Limit, subject: int) -> Counter:
    return Counter(f"as:{{ten_bench}}|live|{limit.id}|xx|ip=2001:db8:{subject:x}::/64", limit)


def _calls(limit: Limit, subjects: int, count: int) -> list[tuple[list[Counter], list[int]]]:
    """Calls of subjects at random, with keys that are as new as those of requests."""
    return [([_counter(limit, subject)], [1]) for subject in subjects_in_random_order(subjects, count)]


def _round(store: MemoryStore, calls: Sequence[tuple[list[Counter], list[int]]]) -> float:
    start = time.process_time_ns()
    for counters, costs in calls:
        store.decide(counters, costs)
    return (time.process_time_ns() - start) / len(calls) / 1000


def _forget(store: MemoryStore, clock: OwnClock, limit: Limit, subjects: int) -> tuple[float, float]:
    """Lets everything expire and asks until it is gone: µs for each one forgotten, the worst check in ms."""
    clock.now_us += (RULE.seconds * 2 + 10) * SECOND_US
    call: Any = [_counter(limit, subjects)], [1]
    held, worst = len(store), 0
    start = time.process_time_ns()
    while len(store) > 1:
        before = time.process_time_ns()
        store.decide(*call)
        worst = max(worst, time.process_time_ns() - before)
        clock.now_us += 1
    return (time.process_time_ns() - start) / held / 1000, worst / 1e6


def _bytes_when_full(limit: Limit) -> float:
    """A sliding window whose every slot is in use."""
    clock = OwnClock()
    store = MemoryStore(clock)
    count = 1000
    before = _resident_bytes()
    counters = [[_counter(limit, subject)] for subject in range(count)]
    for _ in range(SLOTS_FILLED):
        for one in counters:
            store.decide(one, [1])
        clock.now_us += RULE.seconds * SECOND_US // SLOTS_FILLED
    return (_resident_bytes() - before) / count


def _resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


if __name__ == "__main__":
    main()
