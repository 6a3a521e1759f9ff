"""Checks per second of one worker, beside a bare route on the same server, in one run.

    python -m benchmarks.service [--seconds 5] [--connections 64]

The server is pinned to one core and the load (wrk) to another, where there are two. Machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

START_TIMEOUT_SECONDS = 30
UNLIMITED = 1_000_000_000


class Load(NamedTuple):
    """What wrk measured."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us: float
    """Processor time that the server spent on one request, which other load on the machine hardly changes."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Checks per second of one worker, beside a bare route.")
    parser.add_argument("--seconds", type=int, default=5, help="how long each row is measured (default 5)")
    parser.add_argument(
        "--connections", type=int, default=64, help="open connections, each waiting for its answer (64)"
    )
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed. It makes the load: apt-get install wrk")
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]
    rows: list[tuple[str, Load]] = []
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apishield-bench-")))

        def measure(name: str, url: str, credential: str, body: dict[str, Any], server: int) -> None:
            script = work / "post.lua"
            script.write_text(_lua(credential, body))
            for seconds in (1, options.seconds):  # the first second warms up
                load = _wrk(url, script, options.connections, seconds, load_core, server)
            rows.append((name, load))
            print(f"  {name}: {load.per_second:,.0f}/s", file=sys.stderr)

        port = _free_port()
        with _process(["-m", "benchmarks.hello", str(port)], server_core, {}) as server:
            url = f"http://127.0.0.1:{port}/"
            _wait(url)
            measure("bare route", url, "none", _question("sk_live_" + "0" * 36), server)
        stores: list[tuple[str, dict[str, str]]] = [("memory", {})]
        redis = stack.enter_context(_redis(work))
        if redis is not None:
            stores.append(("Redis", {"REDIS_URL": redis}))
        for store, environment in stores:
            port = _free_port()
            base = f"http://127.0.0.1:{port}"
            environment |= {"APISHIELD_PORT": str(port), "APISHIELD_DATA_DIR": str(work / store)}
            with _process(["-m", "apishield.cli", "serve"], server_core, environment) as server:
                _wait(f"{base}/livez")
                tenant = _post(f"{base}/v1/tenants", None, {"name": "bench", "plan": "starter"})
                service_key = tenant["api_key"]["key"]
                for name, limits in _KEYS.items():
                    key = _post(f"{base}/v1/keys", tenant["token"], {"name": name, "scopes": ["read"], **limits})
                    measure(f"check, {store}, {name}", f"{base}/v1/check", service_key, _question(key["key"]), server)
    _print(rows, options.connections)


_WIDE = {"strategy": "sliding_window", "requests": UNLIMITED, "window_seconds": 60}
_KEYS: dict[str, dict[str, Any]] = {
    "one limit": {"rate_limit": _WIDE},
    "two limits and a quota": {
        "rate_limits": [
            {**_WIDE, "name": "minute"},
            {
                "name": "burst",
                "strategy": "token_bucket",
                "requests": UNLIMITED,
                "window_seconds": 1,
                "burst": UNLIMITED,
            },
        ],
        "quota": {"monthly_requests": UNLIMITED},
    },
    "refused": {"rate_limit": {"strategy": "sliding_window", "requests": 1, "window_seconds": 3600}},
}


def _question(key: str) -> dict[str, Any]:
    return {"api_key": key, "method": "GET", "path": "/v1/orders/17", "ip": "203.0.113.7"}


def _lua(credential: str, body: dict[str, Any]) -> str:
    return (
        'wrk.method = "POST"\n'
        f"wrk.body = {json.dumps(json.dumps(body))}\n"
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {credential}"\n'
    )


def _wrk(url: str, script: Path, connections: int, seconds: int, core: int, server: int) -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    before = _cpu_seconds(server)
    out = subprocess.run(_pinned(core, command), check=True, capture_output=True, text=True).stdout
    spent = _cpu_seconds(server) - before
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    total = re.search(r"(\d+) requests in", out)
    if rate is None or total is None:
        sys.exit(f"wrk said something unexpected:\n{out}")
    return Load(
        float(rate.group(1)),
        _ms(out, "50"),
        _ms(out, "99"),
        int(failed.group(1)) if failed else 0,
        spent / int(total.group(1)) * 1e6,
    )


def _ms(out: str, percentile: str) -> float:
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", out)
    assert found is not None, out
    return float(found.group(1)) * {"us": 0.001, "ms": 1, "s": 1000}[found.group(2)]


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pinned(core: int, command: Sequence[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command] if shutil.which("taskset") else [*command]


@contextmanager
def _process(arguments: Sequence[str], core: int, environment: dict[str, str]) -> Iterator[int]:
    process = subprocess.Popen(
        _pinned(core, [sys.executable, *arguments]),
        env={**os.environ, "APISHIELD_LOG_LEVEL": "warning", **environment},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=START_TIMEOUT_SECONDS)


@contextmanager
def _redis(work: Path) -> Iterator[str | None]:
    """A throwaway Redis on any core, or ``None`` where none is installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        print("  redis-server is not installed: the Redis rows are left out", file=sys.stderr)
        yield None
        return
    port = _free_port()
    command = [binary, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(work)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"nothing answers at {url}")
            time.sleep(0.1)
        else:
            return


def _post(url: str, token: str | None, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _print(rows: list[tuple[str, Load]], connections: int) -> None:
    bare = rows[0][1]
    width = max(len(name) for name, _ in rows)
    print(f"\nOne worker, {connections} connections, closed loop\n")
    print(
        f"{'':{width}}  {'per second':>10}  {'p50 ms':>7}  {'p99 ms':>7}  {'of bare':>7}  {'CPU µs':>6}  {'of bare':>7}  failed"
    )
    for name, load in rows:
        share, cpu_share = f"{load.per_second / bare.per_second:.0%}", f"{bare.cpu_us / load.cpu_us:.0%}"
        times = f"{load.p50_ms:>7.2f}  {load.p99_ms:>7.2f}"
        cpu = f"{load.cpu_us:>6.1f}  {cpu_share:>7}"
        print(f"{name:{width}}  {load.per_second:>10,.0f}  {times}  {share:>7}  {cpu}  {load.failed:>6}")


if __name__ == "__main__":
    main()
