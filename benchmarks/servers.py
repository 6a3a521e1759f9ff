"""The servers that are asked: ours on memory and on Redis, a bare route, and the peers that can be had.

- envoyproxy/ratelimit (Go): HTTP ``/json``, three descriptors, on a Redis as ours has it, with the write buffer that its
  manual recommends. It adds to fixed windows, one after the other: neither atomic over several limits nor free of charge for
  refusals, and it does not know keys.
- throttlecrab (Rust): HTTP ``/throttle``, one limit (GCRA), in its own memory. It does not know keys either.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load import Target
from benchmarks.processes import free_port, pinned, running, wait_for_port, wait_for_url

UNLIMITED = 1_000_000_000
BATCH = 100
RATELIMIT_MODULE = "github.com/envoyproxy/ratelimit/src/service_cmd@v1.4.1-0.20260122083618-3fb702589d36"
INSTALL = {
    "service_cmd": f"go install {RATELIMIT_MODULE}",
    "throttlecrab-server": "apt-get install protobuf-compiler && cargo install throttlecrab-server --version 0.4.40",
}
_WIDE = {"strategy": "sliding_window", "requests": UNLIMITED, "window_seconds": 60}
_BURST = {"strategy": "token_bucket", "requests": UNLIMITED, "window_seconds": 1, "burst": UNLIMITED}
KEYS: dict[str, dict[str, Any]] = {
    "one limit": {"rate_limit": _WIDE},
    "two limits and a quota": {
        "rate_limits": [{**_WIDE, "name": "minute"}, {**_BURST, "name": "burst"}],
        "quota": {"monthly_requests": UNLIMITED},
    },
    "refused": {"rate_limit": {"strategy": "sliding_window", "requests": 1, "window_seconds": 3600}},
}
_RATELIMIT_RULES = f"""domain: bench
descriptors:
  - key: minute
    rate_limit: {{unit: minute, requests_per_unit: {UNLIMITED}}}
  - key: burst
    rate_limit: {{unit: second, requests_per_unit: {UNLIMITED}}}
  - key: quota
    rate_limit: {{unit: month, requests_per_unit: {UNLIMITED}}}
"""


def question(key: str, number: int = 7) -> dict[str, Any]:
    """A check of a caller's key; each ``number`` has a path and an address of its own."""
    return {"api_key": key, "method": "GET", "path": f"/v1/orders/{number}", "ip": f"203.0.113.{number}"}


@contextmanager
def bare_route(core: int) -> Iterator[Target]:
    """What HTTP costs before any engine does."""
    port = free_port()
    with running(pinned(core, [sys.executable, "-m", "benchmarks.hello", str(port)])) as server:
        wait_for_url(f"http://127.0.0.1:{port}/")
        yield Target("bare route", server, f"http://127.0.0.1:{port}/", {}, question("sk_live_" + "0" * 36))


@contextmanager
def apishield(core: int, directory: Path, redis: tuple[int, int] | None) -> Iterator[list[Target]]:
    """One worker of the service, on memory or on the Redis at (port, process)."""
    port, store = free_port(), "memory" if redis is None else "Redis"
    base = f"http://127.0.0.1:{port}"
    environment = {
        "APISHIELD_LOG_LEVEL": "warning",
        "APISHIELD_PORT": str(port),
        "APISHIELD_DATA_DIR": str(directory / f"apishield-{store}"),
    }
    if redis is not None:
        environment["REDIS_URL"] = f"redis://127.0.0.1:{redis[0]}/0"
    with running(
        pinned(core, [sys.executable, "-m", "apishield.cli", "serve"]),
        environment,
        directory / f"apishield-{store}.log",
    ) as server:
        wait_for_url(f"{base}/livez")
        tenant = _post(f"{base}/v1/tenants", None, {"name": "bench", "plan": "starter"})
        service_key = tenant["api_key"]["key"]
        redis_process = None if redis is None else redis[1]
        targets = []
        by_service = {"Authorization": f"Bearer {service_key}"}
        for name, limits in KEYS.items():
            key = _post(f"{base}/v1/keys", tenant["token"], {"name": name, "scopes": ["read"], **limits})["key"]

            def add(
                title: str, path: str, headers: dict[str, str], body: dict[str, Any] | None, checks: int = 1
            ) -> None:
                targets.append(Target(title, server, base + path, headers, body, checks, redis_process))

            add(f"check, {store}, {name}", "/v1/check", by_service, question(key))
            if name != "refused":
                checks = [question(key)] * BATCH
                add(f"batch of {BATCH}, {store}, {name}", "/v1/check/batch", by_service, {"checks": checks}, BATCH)
            if name == "one limit":
                several = [question(key, number) for number in range(BATCH)]
                add(
                    f"batch of {BATCH} different, {store}, {name}",
                    "/v1/check/batch",
                    by_service,
                    {"checks": several},
                    BATCH,
                )
                add(f"Nginx's auth_request, {store}, {name}", "/gateway/nginx", _from_nginx(service_key, key), None)
        yield targets


def _from_nginx(service_key: str, key: str) -> dict[str, str]:
    """The headers of Nginx's subrequest."""
    return {
        "X-APIShield-Token": service_key,
        "X-Original-Method": "GET",
        "X-Original-URI": "/v1/orders/17",
        "X-APIShield-Client-IP": "203.0.113.7",
        "X-API-Key": key,
    }


@contextmanager
def envoy_ratelimit(core: int, directory: Path, redis: tuple[int, int] | None) -> Iterator[Target | None]:
    """Envoy's rate-limit service, if it is installed and has a Redis."""
    binary = find("service_cmd")
    if binary is None or redis is None:
        yield None
        return
    rules = directory / "runtime" / "data" / "ratelimit" / "config"
    rules.mkdir(parents=True)
    (rules / "bench.yaml").write_text(_RATELIMIT_RULES)
    port, grpc_port, debug_port = free_port(), free_port(), free_port()
    environment = {
        "HOST": "127.0.0.1",
        "GRPC_HOST": "127.0.0.1",
        "DEBUG_HOST": "127.0.0.1",
        "PORT": str(port),
        "GRPC_PORT": str(grpc_port),
        "DEBUG_PORT": str(debug_port),
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": f"127.0.0.1:{redis[0]}",
        "REDIS_PIPELINE_WINDOW": "150us",
        "USE_STATSD": "false",
        "LOG_LEVEL": "error",
        "RUNTIME_ROOT": str(directory / "runtime"),
        "RUNTIME_SUBDIRECTORY": "data/ratelimit",
        "RUNTIME_WATCH_ROOT": "false",
    }
    with running(pinned(core, [binary]), environment, directory / "ratelimit.log") as server:
        wait_for_port(port)
        descriptors = [{"entries": [{"key": name, "value": "key_1"}]} for name in ("minute", "burst", "quota")]
        yield Target(
            "envoyproxy/ratelimit, Redis, three descriptors",
            server,
            f"http://127.0.0.1:{port}/json",
            {},
            {"domain": "bench", "descriptors": descriptors},
            1,
            redis[1],
        )


@contextmanager
def throttlecrab(core: int) -> Iterator[Target | None]:
    """throttlecrab, if it is installed."""
    binary = find("throttlecrab-server")
    if binary is None:
        yield None
        return
    port = free_port()
    command = [binary, "--http", "--http-host", "127.0.0.1", "--http-port", str(port), "--log-level", "error"]
    with running(pinned(core, command)) as server:
        wait_for_port(port)
        body = {"key": "key_1", "max_burst": 1_000_000, "count_per_period": 10_000_000, "period": 60, "quantity": 1}
        yield Target("throttlecrab, memory, one limit", server, f"http://127.0.0.1:{port}/throttle", {}, body)


def find(binary: str) -> str | None:
    """Where a peer's program is: on the path, or where Go and Cargo install. Says how to get one that is missing."""
    places = [os.environ.get("PATH", ""), str(Path.home() / "go" / "bin"), str(Path.home() / ".cargo" / "bin")]
    found = shutil.which(binary, path=os.pathsep.join(places))
    if found is None:
        print(f"  {binary} is not installed: its row is left out ({INSTALL[binary]})", file=sys.stderr)
    return found


def _post(url: str, token: str | None, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer
