"""The ledger of a real service: what was answered is in it, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.support.processes import alive, descendants, wait_until
from tests.support.service import Service

Start = Callable[..., Service]
WORKER = [sys.executable, "-m", "apishield.cli", "worker"]
_WORKER_STARTED = re.compile(r'"worker.started"')
_SUMS = """
select code, sum(requests) from rollup_minute join series on series.id = series_id
join series_sets on series_sets.id = series.set_id where dims = 'tenant' group by code
"""


def in_the_ledger(data_dir: Path) -> Counter[str]:
    """How many decisions the database counts, by code."""
    with contextlib.closing(sqlite3.connect(data_dir / "apishield.db", timeout=30)) as database:
        return Counter(dict(database.execute(_SUMS).fetchall()))


def ledger_process(service: Service) -> int | None:
    """The process that takes the events of ``service`` into the ledger."""
    for pid in descendants(service.pid):
        with contextlib.suppress(OSError):
            if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
    return None


class Caller:
    """Asks until it is told to stop, or the service is gone; counts what it was answered, and what it never heard of."""

    def __init__(self, service: Service) -> None:
        made = service.sign_up()
        self._url, self._headers = service.url, {"Authorization": f"Bearer {made['api_key']['key']}"}
        self.answered: Counter[str] = Counter()
        self.unanswered = 0

    def ask(self, times: int = 1) -> None:
        body = {"method": "GET", "path": "/orders/1", "ip": "203.0.113.7"}  # without a key: 60 a minute
        with httpx2.Client(base_url=self._url, headers=self._headers, timeout=30) as client:
            for _ in range(times):
                try:
                    answer = client.post("/v1/check", json=body)
                except httpx2.HTTPError:
                    self.unanswered += 1
                    return
                self.answered[answer.json()["code"]] += 1

    def holds(self, counted: Counter[str]) -> bool:
        """Whether the ledger has all that was answered, and at most what was in flight besides."""
        return not self.answered - counted and sum((counted - self.answered).values()) <= self.unanswered


def test_what_was_answered_is_in_the_ledger_within_two_seconds_and_after_a_stop(start_service: Start) -> None:
    service = start_service()
    caller = Caller(service)
    caller.ask(80)
    wait_until(lambda: in_the_ledger(service.data_dir) == caller.answered, "the ledger", lambda: service.log)
    assert set(caller.answered) == {"ok", "rate_limited"}
    caller.ask(20)
    assert service.terminate() == 0
    assert in_the_ledger(service.data_dir) == caller.answered  # the worker took what the service had left
    assert [path.name for path in (service.data_dir / "spool").iterdir()] == ["drain.lock"]
    assert "Traceback" not in service.log


@pytest.mark.parametrize("with_worker", [True, False])
def test_after_a_kill_of_the_service_the_next_start_counts_what_was_answered(
    start_service: Start, with_worker: bool
) -> None:
    service = start_service()
    wait_until(lambda: ledger_process(service) is not None, "the worker")
    worker = ledger_process(service)
    assert worker is not None
    callers = [Caller(service) for _ in range(2)]
    threads = [threading.Thread(target=caller.ask, args=(10_000,)) for caller in callers]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(sum(caller.answered.values()) > 100 for caller in callers), "some answers")
    if with_worker:
        os.kill(worker, signal.SIGKILL)
    service.kill()
    for thread in threads:
        thread.join()
    wait_until(lambda: not alive(worker), "the worker to end with its service")
    service.start()
    answered = sum((caller.answered for caller in callers), Counter[str]())
    unanswered = sum(caller.unanswered for caller in callers)
    wait_until(lambda: not answered - in_the_ledger(service.data_dir), "the ledger", lambda: service.log)
    assert service.terminate() == 0
    counted = in_the_ledger(service.data_dir)
    assert not answered - counted
    assert sum((counted - answered).values()) <= unanswered


def test_a_worker_that_dies_is_started_again_and_nothing_is_counted_twice(start_service: Start) -> None:
    service = start_service()
    caller = Caller(service)
    wait_until(lambda: _WORKER_STARTED.search(service.log) is not None, "the worker")
    caller.ask(30)
    first = ledger_process(service)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    caller.ask(30)
    wait_until(lambda: in_the_ledger(service.data_dir) == caller.answered, "the ledger", lambda: service.log)
    assert ledger_process(service) not in {first, None}
    assert "worker.died" in service.log
    assert service.terminate() == 0
    assert in_the_ledger(service.data_dir) == caller.answered


def test_a_worker_of_its_own_drains_beside_the_service_and_ends_at_sigterm(start_service: Start) -> None:
    service = start_service(APISHIELD_LEDGER="off")
    caller = Caller(service)
    caller.ask(70)
    assert ledger_process(service) is None
    assert in_the_ledger(service.data_dir) == Counter()
    command = [*WORKER, "--data-dir", str(service.data_dir)]
    with subprocess.Popen(command, env={"PATH": os.environ["PATH"]}, stderr=subprocess.PIPE, text=True) as worker:
        try:
            wait_until(lambda: in_the_ledger(service.data_dir) == caller.answered, "the ledger")
            worker.send_signal(signal.SIGTERM)
            said = worker.communicate(timeout=30)[1]
        finally:
            worker.kill()
    assert worker.returncode == 0
    assert "worker.stopped" in said


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"APISHIELD_LEDGER": "maybe"}, "APISHIELD_LEDGER is 'maybe'; it must be worker, inline or off."),
        ({"APISHIELD_SPOOL_BYTES": "10"}, "APISHIELD_SPOOL_BYTES is '10'; it must be"),
        ({}, "`apishield serve` migrates it"),
    ],
)
def test_what_is_misconfigured_is_said_in_one_line(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    settings = {"PATH": os.environ["PATH"], "APISHIELD_STARTUP_TIMEOUT_SECONDS": "0", **environment}
    done = subprocess.run(WORKER, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("apishield: ")]
    assert said in line


def test_several_processes_have_a_spool_each_and_one_worker_takes_them_all(
    start_service: Start, redis_url: str
) -> None:
    service = start_service(REDIS_URL=redis_url, APISHIELD_WORKERS="2")
    caller = Caller(service)
    for _ in range(20):
        caller.ask(3)  # each time on a connection of its own, so that both processes are asked
    wait_until(lambda: in_the_ledger(service.data_dir) == caller.answered, "the ledger", lambda: service.log)
    assert len(list((service.data_dir / "spool").glob("????????"))) == 2
    assert service.log.count('"worker.started"') == 1
    assert service.terminate() == 0
    assert in_the_ledger(service.data_dir) == caller.answered
    assert [path.name for path in (service.data_dir / "spool").iterdir()] == ["drain.lock"]
