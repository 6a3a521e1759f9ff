"""One check over Redis: ours beside the limiters on PyPI, one after the other and 64 at a time.

python -m benchmarks.library_redis [--rounds 3] [--calls 6400] [--subjects 200]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import uvloop

from benchmarks.library import require_peers
from benchmarks.processes import cpu_seconds, running_redis
from benchmarks.redis_peers import INEXACT, OURS, Ask, Fleet
from benchmarks.rules import KINDS, ONE, THREE, Kind, Rule, subjects_in_random_order
from benchmarks.table import print_table

CASES: tuple[tuple[str, Sequence[Rule], int], ...] = (
    ("1 task", ONE, 1),
    ("64 tasks", ONE, 64),
    ("64 tasks, three limits", THREE, 64),
)
COLUMNS = (OURS, "limits", "limits, counter", "throttled-py", "pyrate-limiter")


class Spent(NamedTuple):
    """What one check took, in microseconds."""

    elapsed: float
    client: float
    redis: float


FIGURES: Mapping[str, Callable[[Spent], float]] = {
    "µs of processor time of the client a check": lambda spent: spent.client,
    "µs of processor time of client and Redis a check": lambda spent: spent.client + spent.redis,
    "checks a second": lambda spent: 1e6 / spent.elapsed,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="One check over Redis, beside the limiters on PyPI.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each contender; the median counts (3)")
    parser.add_argument(
        "--calls", type=int, default=6400, help="checks a round with 64 tasks, a quarter with one (6400)"
    )
    parser.add_argument("--subjects", type=int, default=200, help="subjects that ask in random order (200)")
    options = parser.parse_args(arguments)
    require_peers()
    with tempfile.TemporaryDirectory(prefix="apishield-bench-") as work, running_redis(Path(work)) as redis:
        if redis is not None:
            uvloop.run(_run(options, *redis))


async def _run(options: argparse.Namespace, port: int, redis_process: int) -> None:
    fleet = Fleet(f"redis://127.0.0.1:{port}/0", options.subjects)
    order = subjects_in_random_order(options.subjects, options.calls)
    spent: dict[tuple[Kind, str], dict[str, Spent]] = {}
    for kind in KINDS:
        for case, rules, tasks in CASES:
            part = order if tasks > 1 else order[: len(order) // 4]
            contenders = await fleet.contenders(kind, rules)
            spent[kind, case] = await _measure(contenders, part, tasks, options.rounds, redis_process)
            print(f"  {kind}, {case}", file=sys.stderr)
    await fleet.close()
    head = ["", *("limits counter" if name == "limits, counter" else name for name in COLUMNS), "fastest peer ÷ ours"]
    for title, number in FIGURES.items():
        rows = []
        for (kind, case), times in spent.items():
            figures = {name: number(one) for name, one in times.items()}
            ours, rivals = figures[OURS], [figure for name, figure in figures.items() if name != OURS]
            ratio = ours / max(rivals) if title == "checks a second" else min(rivals) / ours
            cells = [_cell(figures.get(name), (name, kind) in INEXACT) for name in COLUMNS]
            rows.append([f"{kind}, {case}", *cells, f"{ratio:.1f}×"])
        print_table(f"On Redis, {title}; * may admit more than the limit", head, rows)
    rows = []
    for kind in KINDS:
        one, three = spent[kind, "64 tasks"][OURS], spent[kind, "64 tasks, three limits"][OURS]
        ratios = (
            three.client / one.client,
            (three.client + three.redis) / (one.client + one.redis),
            three.elapsed / one.elapsed,
        )
        rows.append([kind, *(f"{ratio:.2f}×" for ratio in ratios)])
    print_table("Ours: three limits ÷ one, 64 tasks", ["", "client", "client and Redis", "time"], rows)


def _cell(figure: float | None, inexact: bool) -> str:
    if figure is None:
        return "-"
    return (f"{figure:,.0f}" if figure >= 1000 else f"{figure:.1f}") + (" *" if inexact else "")


async def _measure(
    contenders: dict[str, Ask], order: Sequence[int], tasks: int, rounds: int, redis_process: int
) -> dict[str, Spent]:
    """The median round of each contender, in alternating order; the first round only warms up."""
    times: dict[str, list[Spent]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds + 1):
        for name in names if turn % 2 else reversed(names):
            one = await _round(contenders[name], order if turn else order[: len(order) // 4], tasks, redis_process)
            if turn:
                times[name].append(one)
    return {name: Spent(*(median(column) for column in zip(*rows, strict=True))) for name, rows in times.items()}


async def _round(ask: Ask, order: Sequence[int], tasks: int, redis_process: int) -> Spent:
    queue = iter(order)

    async def work() -> None:
        for subject in queue:  # shared: each task takes the next
            await ask(subject)

    redis_start, client_start, start = cpu_seconds(redis_process), time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    count = len(order)
    return Spent(
        (time.perf_counter() - start) / count * 1e6,
        (time.process_time() - client_start) / count * 1e6,
        (cpu_seconds(redis_process) - redis_start) / count * 1e6,
    )


if __name__ == "__main__":
    main()
