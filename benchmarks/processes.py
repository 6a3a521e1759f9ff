"""Servers for a benchmark: throwaway, on loopback, on a core of their own where there are two; and what they spend."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_TIMEOUT_SECONDS = 30


def cores() -> tuple[int, int]:
    """A core for the server, another one for the load where there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """``command`` on one core, where that can be arranged."""
    return ["taskset", "-c", str(core), *command] if shutil.which("taskset") else [*command]


def cpu_seconds(process: int) -> float:
    """Processor time that the threads of a process have spent so far, to the nanosecond (Linux: proc(5), schedstat)."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{process}/task").glob("*/schedstat")) / 1e9


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[int]:
    """Runs ``command`` while the block lasts; gives its process id. What it says goes to ``log``."""
    with (log or Path(os.devnull)).open("ab") as output:
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=output, stderr=output)
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait(timeout=START_TIMEOUT_SECONDS)


@contextmanager
def running_redis(directory: Path, core: int | None = None) -> Iterator[tuple[int, int] | None]:
    """A throwaway Redis as (port, process id), or ``None`` where none is installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        print(
            "  redis-server is not installed: what needs it is left out (apt-get install redis-server)", file=sys.stderr
        )
        yield None
        return
    port = free_port()
    command = [binary, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(directory)]
    with running(command if core is None else pinned(core, command)) as process:
        wait_for_port(port)
        yield port, process


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Waits until somebody listens."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"nothing listens on port {port}")
            time.sleep(0.05)
        else:
            return


def wait_for_url(url: str) -> None:
    """Waits until ``url`` answers."""
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
