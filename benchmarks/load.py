"""Load on an HTTP server: closed loop by wrk, open loop by ``benchmarks.open_loop``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import cpu_seconds, pinned

DRAIN_SECONDS = 10
IDLE_SECONDS = 0.1


class Target(NamedTuple):
    """A question to a server: a POST of ``body`` as JSON, or a GET where there is none. One request asks ``checks`` checks."""

    name: str
    server: int
    url: str
    headers: dict[str, str]
    body: dict[str, Any] | None
    checks: int = 1
    redis: int | None = None
    """The process of the Redis that the server asks; its processor time is shown, too."""


class Load(NamedTuple):
    """What a round measured: checks (not requests) a second, latencies of requests, processor time of one check."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us: float
    """Processor time that the server spent on one check, which other load on the machine hardly changes."""
    redis_cpu_us: float


def closed_loop(target: Target, connections: int, seconds: int, core: int, work: Path) -> Load:
    """As many requests as ``connections`` can send that each wait for their answer."""
    script = work / "post.lua"
    script.write_text(_lua(target))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), target.url]
    before = _spent(target)
    out = subprocess.run(pinned(core, command), check=True, capture_output=True, text=True).stdout
    server, redis = (now - then for now, then in zip(_spent(target), before, strict=True))
    _drain(target)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    total = re.search(r"(\d+) requests in", out)
    if rate is None or total is None:
        sys.exit(f"wrk said something unexpected:\n{out}")
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    checks = max(1, int(total.group(1))) * target.checks
    return Load(
        float(rate.group(1)) * target.checks,
        _ms(out, "50"),
        _ms(out, "99"),
        int(failed.group(1)) if failed else 0,
        server / checks * 1e6,
        redis / checks * 1e6,
    )


def open_loop(target: Target, per_second: float, seconds: int, core: int) -> Load:
    """Requests at fixed instants, whether earlier ones are answered or not; latency counts from the instant."""
    before = _spent(target)
    body = "" if target.body is None else json.dumps(target.body)
    command = [sys.executable, "-m", "benchmarks.open_loop", target.url, json.dumps(target.headers), body]
    out = subprocess.run(
        pinned(core, [*command, str(per_second), str(seconds)]), check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    server, redis = (now - then for now, then in zip(_spent(target), before, strict=True))
    said = json.loads(out)
    return Load(
        said["per_second"],
        said["p50_ms"],
        said["p99_ms"],
        said["failed"],
        server / said["requests"] * 1e6,
        redis / said["requests"] * 1e6,
    )


def _drain(target: Target) -> None:
    """Waits until the server has done with what nobody waits for any more, so that the next one has the core to itself."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        before = cpu_seconds(target.server)
        time.sleep(IDLE_SECONDS)
        if cpu_seconds(target.server) - before < IDLE_SECONDS / 10:
            return


def _spent(target: Target) -> tuple[float, float]:
    return cpu_seconds(target.server), 0.0 if target.redis is None else cpu_seconds(target.redis)


def _lua(target: Target) -> str:
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in target.headers.items()]
    if target.body is not None:
        lines += [
            'wrk.method = "POST"',
            f"wrk.body = {json.dumps(json.dumps(target.body))}",
            'wrk.headers["Content-Type"] = "application/json"',
        ]
    return "\n".join(lines) + "\n"


def _ms(out: str, percentile: str) -> float:
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", out)
    assert found is not None, out
    return float(found.group(1)) * {"us": 0.001, "ms": 1, "s": 1000}[found.group(2)]
