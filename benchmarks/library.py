"""One check in memory: ours beside the limiters on PyPI, by processor time.

python -m benchmarks.library [--rounds 5] [--calls 10000] [--subjects 1000]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

from apishield.core.rate_limiter.states import COMPILED
from benchmarks import peers
from benchmarks.rounds import Contender, nanoseconds_a_call_apart
from benchmarks.rules import FIVE, KINDS, ONE, USED_UP, Kind, Rule, subjects_in_random_order
from benchmarks.table import print_table

CASES: dict[str, Sequence[Rule]] = {"one limit": ONE, "five limits": FIVE, "one limit, refused": USED_UP}
COLUMNS = (
    peers.OURS,
    peers.OURS_KEYED,
    "limits",
    "limits, counter",
    "throttled-py",
    "pyrate-limiter",
    peers.BARE,
)
HEADINGS = ("apishield", "keys made", "limits", "counter", "throttled", "pyrate", "bare")
PACKAGES = ("limits", "throttled-py", "pyrate-limiter")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="One check in memory, beside the limiters on PyPI.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each contender; the median counts (5)")
    parser.add_argument("--calls", type=int, default=10_000, help="checks a round (10000)")
    parser.add_argument("--subjects", type=int, default=1000, help="subjects that ask in random order (1000)")
    options = parser.parse_args(arguments)
    require_peers()
    order = subjects_in_random_order(options.subjects, options.calls)
    rows: list[list[str]] = []
    for kind in KINDS:
        for case, rules in CASES.items():
            rows.append(_row(kind, case, rules, order, options.rounds))
            print(f"  {rows[-1][0]}", file=sys.stderr)
    used = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    print_table(
        f"On memory, {options.subjects:,} subjects, median of {options.rounds} rounds "
        f"({used}; ours is {'compiled' if COMPILED else 'interpreted'}).\n"
        "µs of processor time a check; * may admit more than the limit.",
        ["", *HEADINGS, "limiter ÷ ours", "barest ÷ ours"],
        rows,
    )


def require_peers() -> None:
    """Ends with what to do where the peers are not installed."""
    if find_spec("limits") is None or find_spec("throttled") is None or find_spec("pyrate_limiter") is None:
        sys.exit(
            f"{', '.join(PACKAGES)} are not installed here. `make bench` makes an environment that has them, .venv-bench."
        )


def _row(kind: Kind, case: str, rules: Sequence[Rule], order: Sequence[int], rounds: int) -> list[str]:
    makers = peers.contenders(kind, rules, order)
    if rules is USED_UP:
        makers = {name: partial(_used_up, make, order) for name, make in makers.items()}
    spent = nanoseconds_a_call_apart(makers, rounds)
    ours = spent[peers.OURS]
    rivals = {name: time for name, time in spent.items() if name not in (peers.OURS, peers.OURS_KEYED)}
    limiters = [time for name, time in rivals.items() if name != peers.BARE]
    cells = [f"{kind}, {case}"]
    for name in COLUMNS:
        mark = " *" if (name, kind) in peers.INEXACT else ""
        cells.append(f"{spent[name] / 1000:.2f}{mark}" if name in spent else "-")
    return [*cells, f"{min(limiters) / ours:.1f}×", f"{min(rivals.values()) / ours:.1f}×"]


def _used_up(make: Callable[[], Contender], order: Sequence[int]) -> Contender:
    """What ``make`` makes, every subject of which has nothing left."""
    contender = make()
    for call in dict(zip(order, contender.arguments, strict=True)).values():
        for _ in range(USED_UP[0].requests):
            contender.ask(*call)
    return contender


if __name__ == "__main__":
    main()
