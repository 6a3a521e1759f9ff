"""Nothing takes the events and the spool is full: a kill still loses nothing that was answered."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx2

from tests.support.processes import wait_until
from tests.support.service import Service

Start = Callable[..., Service]
RESERVED = 20
ESTIMATE, FINAL = 1000, 10


def costs(service: Service) -> tuple[int, int]:
    """How many checks are in the ledger, and how many tokens they cost."""
    with contextlib.closing(sqlite3.connect(service.data_dir / "apishield.db", timeout=30)) as database:
        (requests,) = database.execute(
            "SELECT coalesce(sum(r.requests), 0) FROM rollup_day r JOIN series_sets s ON s.id = r.set_id "
            "WHERE s.dims = 'tenant'"
        ).fetchone()
        (tokens,) = database.execute(
            "SELECT coalesce(sum(u.cost), 0) FROM rollup_units u JOIN series_sets s ON s.id = u.set_id "
            "WHERE s.dims = 'tenant' AND u.step = 'day' AND u.unit = 'tokens'"
        ).fetchone()
    return int(requests), int(tokens)


def test_after_a_kill_with_a_full_spool_all_that_was_answered_is_counted_and_costs_what_was_settled(
    start_service: Start,
) -> None:
    service = start_service(APISHIELD_LEDGER="off", APISHIELD_SPOOL_BYTES=str(16 * 1024 * 1024))
    made = service.sign_up()
    draft = {"name": "k", "quota": [{"period": "month", "limit": 10**8, "unit": "tokens"}]}
    key = httpx2.post(f"{service.url}/v1/keys", json=draft, headers={"Authorization": f"Bearer {made['token']}"}).json()
    check = {"api_key": key["key"], "method": "GET", "path": "/files", "user_agent": "x" * 120, "ip": "192.0.2.1"}
    estimate = {"cost": {"requests": 1, "tokens": ESTIMATE}, "reserve": True}
    headers = {"Authorization": f"Bearer {made['api_key']['key']}"}
    with httpx2.Client(base_url=service.url, headers=headers, timeout=30) as client:

        def ask(**more: Any) -> str:
            decision = client.post("/v1/check", json=check | more).json()
            assert decision["allowed"], decision
            return str(decision["decision_id"])

        answered = 2 * RESERVED
        reserved = [ask(**estimate) for _ in range(RESERVED)]
        while "spool.no_room" not in service.log:
            answer = client.post("/v1/check/batch", json={"checks": [check] * 1000})
            answered += len(answer.json()["results"])
        reserved += [ask(**estimate) for _ in range(RESERVED)]  # of these nothing but what is held was kept
        events = [{"decision_id": each, "status": 200, "latency_ms": 5, "cost": {"tokens": FINAL}} for each in reserved]
        told = client.post("/v1/report", json={"events": events})
        assert (told.status_code, told.json()["accepted"]) == (202, 2 * RESERVED)
        for _ in range(300):
            ask()
            answered += 1
    service.kill()
    wanted = (answered, 2 * RESERVED * FINAL)
    command = [sys.executable, "-m", "apishield.cli", "worker", "--data-dir", str(service.data_dir)]
    with subprocess.Popen(command, env={"PATH": os.environ["PATH"]}, stderr=subprocess.DEVNULL) as worker:
        try:
            wait_until(lambda: costs(service) == wanted, f"{wanted}", lambda: str(costs(service)))
        finally:
            worker.terminate()
    assert costs(service) == wanted
