"""Checks per second of one worker, beside a bare route on the same server and beside its peers, in one run.

    python -m benchmarks.service [--seconds 3] [--rounds 3] [--connections 1 32 128]

Each server is pinned to one core (the same for all), the load and Redis to another, where there are two. All servers are up
at once and take turns. Machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from apishield.core.rate_limiter.states import COMPILED
from benchmarks import servers
from benchmarks.load import Load, Target, closed_loop, open_loop
from benchmarks.processes import cores, running_redis
from benchmarks.table import print_table

BATCH_CONNECTIONS = 8
"""At most so many batches are under way at once: a client that batches gathers its checks on few connections."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Checks per second of one worker, beside a bare route and its peers.")
    parser.add_argument("--seconds", type=int, default=3, help="how long a round lasts (3)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each row; the median counts (3)")
    parser.add_argument(
        "--only", default="", help="leave out the rows without this in their names, the bare route aside"
    )
    parser.add_argument(
        "--connections",
        type=int,
        nargs="+",
        default=[1, 32, 128],
        help="open connections, each waiting for its answer (1 32 128)",
    )
    options = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed. It makes the load: apt-get install wrk")
    server_core, load_core = cores()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apishield-bench-")))
        redis = stack.enter_context(running_redis(work, load_core))
        targets = [stack.enter_context(servers.bare_route(server_core))]
        targets += stack.enter_context(servers.apishield(server_core, work, None))
        if redis is not None:
            targets += stack.enter_context(servers.apishield(server_core, work, redis))
        peers = (
            stack.enter_context(servers.envoy_ratelimit(server_core, work, redis)),
            stack.enter_context(servers.throttlecrab(server_core)),
        )
        targets += [peer for peer in peers if peer is not None]
        targets = [target for at, target in enumerate(targets) if not at or options.only in target.name]
        for target in targets:  # warms up
            closed_loop(target, BATCH_CONNECTIONS, 1, load_core, work)
        form = f"ours {'compiled' if COMPILED else 'interpreted'}"
        for connections in options.connections:

            def closed(target: Target, connections: int = connections) -> Load:
                at_once = connections if target.checks == 1 else min(connections, BATCH_CONNECTIONS)
                return closed_loop(target, at_once, options.seconds, load_core, work)

            rows = _rounds(f"{connections} connections", targets, options.rounds, closed)
            batches = min(connections, BATCH_CONNECTIONS)
            _print(f"One worker, {connections} connections (batches: {batches}), closed loop; {form}", rows)
        half = {target.name: load.per_second / 2 for target, load in rows}
        singles = [target for target in targets if target.checks == 1 and half[target.name] >= 1]
        rows = _rounds(
            "half load",
            singles,
            options.rounds,
            lambda target: open_loop(target, half[target.name], options.seconds, load_core),
        )
        _print(f"One worker, open loop at half of that rate; {form}", rows)


def _rounds(
    title: str, targets: Sequence[Target], rounds: int, measure: Callable[[Target], Load]
) -> list[tuple[Target, Load]]:
    """The median of each figure over ``rounds`` turns; the targets take turns."""
    loads: dict[str, list[Load]] = {target.name: [] for target in targets}
    for turn in range(rounds):
        for target in targets if turn % 2 else reversed(targets):
            loads[target.name].append(measure(target))
        print(f"  {title}: round {turn + 1} of {rounds}", file=sys.stderr)
    return [(target, Load(*(median(column) for column in zip(*loads[target.name], strict=True)))) for target in targets]


def _print(title: str, rows: Sequence[tuple[Target, Load]]) -> None:
    bare = rows[0][1]
    lines = []
    for target, load in rows:
        lines.append(
            [
                target.name,
                f"{load.per_second:,.0f}",
                f"{load.p50_ms:.2f}",
                f"{load.p99_ms:.2f}",
                f"{load.failed:,.0f}",
                f"{load.cpu_us:.1f}",
                f"{load.redis_cpu_us:.1f}" if target.redis is not None else "-",
                f"{load.per_second / bare.per_second:.0%}",
                f"{bare.cpu_us / load.cpu_us:.0%}",
            ]
        )
    head = ["", "checks/s", "p50 ms", "p99 ms", "failed", "CPU µs", "Redis µs", "rate of bare", "CPU of bare"]
    print_table(title, head, lines)


if __name__ == "__main__":
    main()
