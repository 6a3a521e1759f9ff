"""``apishield reconcile`` against a real PostgreSQL and Redis, and where there is no Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from apishield.core.model import Limit, Quota
from apishield.services.ledger import LedgerService
from apishield.workers.ledger import LedgerWorker
from tests.support.checks import make_key
from tests.support.clock import ManualClock
from tests.support.node import running_node

SECRET = "1:" + "c2VjcmV0" * 8


def reconcile(directory: Path, *arguments: str, code: int, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "apishield.cli", "reconcile", "--pause-seconds", "0", *arguments]
    settings = {
        "PATH": os.environ["PATH"],
        "APISHIELD_SECRET": SECRET,
        "APISHIELD_DATA_DIR": str(directory),
        **environment,
    }
    done = subprocess.run(command, cwd=directory, env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def clock() -> ManualClock:
    """Near Redis' own time, which the test can't own."""
    return ManualClock(time.time_ns() // 1000)


async def test_a_counter_that_redis_lost_charges_of_is_shown_healed_and_right(
    tmp_path: Path, clock: ManualClock, postgres_url: str, redis_url: str
) -> None:
    urls: dict[str, Any] = {"database_url": postgres_url, "redis_url": redis_url}
    environment = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url}
    async with running_node(tmp_path, clock, **urls) as node:
        tenant = await node.tenant()
        monthly = Limit(id="", name="monthly", algorithm=Quota(10))
        key_id, secret = await make_key(tenant, quotas=(monthly,))
        for _ in range(2):
            await tenant.check(api_key=secret)
        with redis.Redis.from_url(redis_url) as client:
            (key,) = [key for key in client.keys("*key=*") if b"|qu|" in key]
            before = client.dump(key)
            for _ in range(4):
                await tenant.check(api_key=secret)
            client.restore(key, client.pttl(key), before, replace=True)  # as after a fail-over that lost writes
    shown = json.loads(reconcile(tmp_path, "--no-heal", "--json", code=1, **environment).stdout)
    (drift,) = shown["quotas"]
    assert (drift["key_id"], drift["ledger"], drift["live"], drift["missing"], drift["healed"]) == (
        key_id,
        6,
        2,
        4,
        False,
    )
    assert key_id in reconcile(tmp_path, code=1, **environment).stdout
    calm = reconcile(tmp_path, code=0, **environment)
    assert "1 in use, no drift" in calm.stderr
    assert "agree" in calm.stderr


async def test_what_looks_orphaned_because_nobody_has_taken_it_yet_is_told_apart(
    tmp_path: Path, clock: ManualClock, postgres_url: str, redis_url: str
) -> None:
    environment = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url}
    async with running_node(tmp_path, clock, ledger="off", database_url=postgres_url, redis_url=redis_url) as node:
        tenant = await node.tenant()
        _, secret = await make_key(tenant, quotas=(Limit(id="", name="monthly", algorithm=Quota(10)),))
        for _ in range(3):
            await tenant.check(api_key=secret)
        await node.runtime.usage.flush()
        waiting = reconcile(tmp_path, "--no-heal", code=1, **environment)
        said = " ".join(waiting.stderr.split())
        assert "Not in the ledger yet: 0.0 MB in the spools of this machine" in said
        assert "a worker that is behind or stuck looks the same" in said
        shown = json.loads(reconcile(tmp_path, "--no-heal", "--json", code=1, **environment).stdout)
        assert shown["quotas"][0]["orphaned"] == 3
        assert shown["waits"]["messages"] == {}
        assert 0 < shown["waits"]["spool_bytes"] < 2000
        ledger = LedgerService(node.runtime.database, clock)
        worker = LedgerWorker(tmp_path / "spool", ledger, clock, owner="w", max_bytes=1 << 30)
        await worker.drain.catch_up()
        worker.drain.close()
        shown = json.loads(reconcile(tmp_path, "--no-heal", "--json", code=0, **environment).stdout)
        assert shown["waits"] == {"messages": {}, "spool_bytes": 0}


async def test_without_redis_the_rollups_are_compared_and_the_counters_left_to_the_service(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running_node(tmp_path, clock) as node:
        await (await node.tenant()).check(method="GET", ip="192.0.2.1")
    done = reconcile(tmp_path, code=0)
    assert "looks after them by itself" in done.stderr
    assert "agree" in done.stderr
