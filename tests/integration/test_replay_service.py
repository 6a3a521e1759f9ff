"""Replays on both databases: what was recorded is read, jobs are kept for as long as they may be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from apishield.core.model import SECOND_US, Concurrency, Limit, SlidingWindow
from apishield.errors import ProblemError
from apishield.services.replay import DAYS_KEPT, ReplayDraft
from tests.support.checks import make_key
from tests.support.clock import ManualClock
from tests.support.node import Node, running_node

HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US


@pytest_asyncio.fixture(params=["SQLite", "PostgreSQL"])
async def node(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Node]:
    url = request.getfixturevalue("postgres_url") if request.param == "PostgreSQL" else None
    async with running_node(tmp_path, clock, database_url=url) as running:
        yield running


def trying(clock: ManualClock, limit: SlidingWindow | Concurrency, per: tuple[str, ...] = ("key",)) -> ReplayDraft:
    return ReplayDraft(
        from_us=clock.now_us - HOUR_US, to_us=clock.now_us, limit=Limit(id="", name="tried", algorithm=limit), per=per
    )


async def test_what_this_node_decided_a_moment_ago_takes_part(node: Node, clock: ManualClock) -> None:
    tenant = await node.tenant()
    key_id, secret = await make_key(tenant)
    for _ in range(5):
        await tenant.check(api_key=secret, method="GET", path="/a")
    clock.advance(1)
    job = await node.runtime.replays.begin(
        tenant.owner, trying(clock, SlidingWindow(3, 60 * SECOND_US)), patience_seconds=None
    )
    assert job.report is not None
    assert (job.report.of, job.report.would_refuse) == (5, 2)
    assert [each.subject for each in job.report.subjects] == [{"key": key_id}]
    assert job.is_complete


async def test_reports_free_the_slots_of_a_concurrency_limit_that_is_tried_out(node: Node, clock: ManualClock) -> None:
    tenant = await node.tenant()
    for _ in range(3):
        decision = await tenant.check(method="GET", path="/a", ip="192.0.2.1")
        clock.advance(1)
        report = {"decision_id": decision["decision_id"], "status": 200, "latency_ms": 1000}
        await tenant.post("/v1/report", {"events": [report]})
        clock.advance(1)
    await tenant.check(method="GET", path="/a", ip="192.0.2.1")  # is never reported
    clock.advance(1)
    await tenant.check(method="GET", path="/a", ip="192.0.2.1")
    clock.advance(1)
    draft = trying(clock, Concurrency(1, 60 * SECOND_US), ("ip",))
    job = await node.runtime.replays.begin(tenant.owner, draft, patience_seconds=None)
    assert job.report is not None
    assert (job.report.of, job.report.would_refuse) == (5, 1)


async def test_replays_are_forgotten_with_the_addresses_in_them(node: Node, clock: ManualClock) -> None:
    tenant = await node.tenant()
    draft = trying(clock, SlidingWindow(3, SECOND_US))
    job = await node.runtime.replays.begin(tenant.owner, draft, patience_seconds=None)
    clock.now_us += DAYS_KEPT * DAY_US - 1
    await node.runtime._keep_house()
    assert (await node.runtime.replays.get(tenant.owner, job.id)).status == "done"
    clock.now_us += 2
    await node.runtime._keep_house()
    with pytest.raises(ProblemError, match="no replay"):
        await node.runtime.replays.get(tenant.owner, job.id)
