"""How exact are limiters? Ours beside those on PyPI, by what ``apishield conformance`` measures.

python -m benchmarks.accuracy [--rounds 100]

In simulated time the Python limiters (``benchmarks/adapters``); in real time and over HTTP the service, and slowapi.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from apishield.conformance.adapter import load_adapter
from apishield.conformance.run import run
from apishield.conformance.schedules import Promise
from apishield.conformance.score import Score
from apishield.conformance.subjects import Target
from apishield.conformance.targets import AdapterTarget, ServiceTarget, UrlTarget
from apishield.core.rate_limiter.parse import parse_limit
from benchmarks.processes import free_port, running, wait_for_url
from benchmarks.table import print_table

SLIDING, FIXED, BUCKET = ("20/minute",), ("20/minute fixed",), ("20/minute burst 20",)
TWO_SLIDING, TWO_FIXED, TWO_BUCKETS = (
    ("20/minute", "5/10s"),
    ("20/minute fixed", "5/10s fixed"),
    ("20/minute burst 20", "5/10s burst 5"),
)


class Entrant(NamedTuple):
    """A limiter, the limits that it is asked to hold, and whether its authors mean it to hold them exactly."""

    name: str
    adapter: str
    limits: Sequence[str]
    meant_exact: bool = True


SIMULATED = (
    Entrant("apishield", "ours:Memory", SLIDING),
    Entrant("limits, moving window", "limits:Moving", SLIDING),
    Entrant("limits, sliding window counter", "limits:Counter", SLIDING, meant_exact=False),
    Entrant("throttled-py, sliding window", "throttled:Sliding", SLIDING, meant_exact=False),
    Entrant("apishield", "ours:Memory", FIXED),
    Entrant("limits, fixed window", "limits:Fixed", FIXED),
    Entrant("throttled-py, fixed window", "throttled:Fixed", FIXED),
    Entrant("apishield", "ours:Memory", BUCKET),
    Entrant("throttled-py, token bucket", "throttled:TokenBucket", BUCKET),
    Entrant("throttled-py, leaky bucket", "throttled:LeakyBucket", BUCKET),
    Entrant("throttled-py, GCRA", "throttled:Gcra", BUCKET),
    Entrant("apishield", "ours:Memory", TWO_SLIDING),
    Entrant("limits, moving window", "limits:Moving", TWO_SLIDING),
    Entrant("apishield", "ours:Memory", TWO_FIXED),
    Entrant("limits, fixed window", "limits:Fixed", TWO_FIXED),
    Entrant("throttled-py, fixed window", "throttled:Fixed", TWO_FIXED),
    Entrant("apishield", "ours:Memory", TWO_BUCKETS),
    Entrant("throttled-py, GCRA", "throttled:Gcra", TWO_BUCKETS),
)
LIVE_SERVICE = (("10/2s",), ("10/2s fixed",), ("10/2s burst 10",), ("5/1s", "8/2s"))
LIVE_SLOWAPI = (("moving", "10/2s", True), ("counter", "10/2s", False), ("fixed", "10/2s fixed", True))
HEAD = ("", "limits", "meant", "over", "too early", "back at it", "before it", "insisted", "race", "several")
PACKAGES = ("limits", "throttled-py", "slowapi")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How exact limiters are.")
    parser.add_argument("--rounds", type=int, default=100, help="rounds of all schedules in simulated time (100)")
    options = parser.parse_args(arguments)
    if find_spec("limits") is None or find_spec("throttled") is None or find_spec("slowapi") is None:
        sys.exit(f"{', '.join(PACKAGES)} are not installed here. `make bench` makes an environment that has them.")
    used = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    rows = [_simulated(entrant, options.rounds) for entrant in SIMULATED]
    print_table(f"In simulated time, {options.rounds} rounds of all schedules ({used}).", HEAD, rows)
    print_table("Over HTTP, in real time, one round.", HEAD, [*_service(), *_slowapi()])


def _simulated(entrant: Entrant, rounds: int) -> list[str]:
    target = AdapterTarget(load_adapter(f"benchmarks.adapters.{entrant.adapter}"))
    return _row(entrant.name, entrant.limits, _scored(target, entrant.limits, rounds), entrant.meant_exact, raced=False)


def _service() -> Iterator[list[str]]:
    with _serving([sys.executable, "-m", "apishield.cli", "serve"], "/livez") as base:
        request = urllib.request.Request(
            f"{base}/v1/tenants", b'{"name": "accuracy"}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            token = json.load(answer)["token"]
        for limits in LIVE_SERVICE:
            yield _row("apishield, service", limits, _scored(ServiceTarget(base, token), limits), meant_exact=True)


def _slowapi() -> Iterator[list[str]]:
    with _serving([sys.executable, "-m", "benchmarks.adapters.slowapi_app"], "/livez") as base:
        for strategy, limit, meant_exact in LIVE_SLOWAPI:
            target = UrlTarget(f"{base}/{strategy}/", {"X-API-Key": "{subject}"})
            yield _row(f"slowapi, {strategy}", (limit,), _scored(target, (limit,)), meant_exact)


@contextmanager
def _serving(command: list[str], ready: str) -> Iterator[str]:
    """A server that reads its port from the environment; gives its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        environment = {"APISHIELD_PORT": str(port), "APISHIELD_DATA_DIR": directory, "PORT": str(port)}
        with running(command, environment, Path(directory) / "server.log"):
            wait_for_url(f"http://127.0.0.1:{port}{ready}")
            yield f"http://localhost:{port}"


def _scored(target: Target, limits: Sequence[str], rounds: int = 1) -> Score:
    async def play() -> Score:
        try:
            return await run(target, [parse_limit(limit) for limit in limits], rounds=rounds)
        finally:
            await target.close()

    return asyncio.run(play())


def _row(name: str, limits: Sequence[str], score: Score, meant_exact: bool, raced: bool = True) -> list[str]:
    print(f"  {name}, {', '.join(limits)}: {score.checks:,} checks", file=sys.stderr)
    return [
        name,
        ", ".join(limits),
        "exact" if meant_exact else "approximate",
        f"{score.over_units} ({score.over_percent:.0f} %)" if score.over_units else "0",
        f"{score.early_percent:.3g} %",
        _kept(score, Promise.RETRY_AT),
        _kept(score, Promise.RETRY_BEFORE),
        _withheld(score, Promise.REFUSALS_FREE),
        _kept(score, Promise.RACE) if raced else "",
        _withheld(score, Promise.TOGETHER),
    ]


def _kept(score: Score, promise: Promise) -> str:
    trials = score.trials.get(promise)
    return "" if trials is None else f"{trials.kept} of {trials.tried}"


def _withheld(score: Score, promise: Promise) -> str:
    trials = score.trials.get(promise)
    return "" if trials is None else f"{trials.most_units} withheld"


if __name__ == "__main__":
    main()
