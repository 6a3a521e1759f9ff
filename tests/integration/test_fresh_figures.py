"""Figures that may be old say so: what a process has decided and nobody has taken into the ledger yet is missing in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from apishield.api.schemas.analytics import SummaryOut
from apishield.api.schemas.usage import KeyUsageOut
from apishield.services.analytics.questions import Filters
from apishield.services.ledger import LedgerService
from apishield.workers.ledger import LedgerWorker
from tests.support.checks import make_key
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, running_node


@pytest_asyncio.fixture(params=["off", "worker"])
async def node(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Node]:
    """A node whose events nobody takes, unless the test does."""
    async with running_node(tmp_path, clock, ledger=request.param) as running:
        yield running


async def figures(tenant: Tenant, key_id: str, to: str | None = None) -> list[tuple[bool, int]]:
    """What the summary and the key's usage say: whether they are fresh, and how many checks."""
    runtime = tenant.node.runtime
    question = runtime.analytics.question(tenant.owner, Filters(), from_="now-1h", to=to)
    summary = SummaryOut.of(await runtime.analytics.summary(question), counts_only=False)
    key = await runtime.keys.get(tenant.owner, key_id)
    usage = KeyUsageOut.of(await runtime.usage.key_usage(tenant.owner, key))
    return [(summary.fresh, summary.requests), (usage.fresh, usage.totals.today)]


async def test_figures_say_whether_they_hold_what_was_just_decided(
    node: Node, tmp_path: Path, clock: ManualClock
) -> None:
    tenant = await node.tenant()
    key_id, secret = await make_key(tenant)
    assert await figures(tenant, key_id) == [(True, 0), (True, 0)]
    await tenant.check(api_key=secret)
    assert await figures(tenant, key_id) == [(False, 0), (False, 0)]
    clock.advance(600)
    (summary, _) = await figures(tenant, key_id, to="now-5m")
    assert summary == (False, 0), "a period that is over misses what nobody has taken since"

    database = node.runtime.database
    worker = LedgerWorker(tmp_path / "spool", LedgerService(database, clock), clock, owner="w", max_bytes=1 << 30)
    await worker.drain.catch_up()
    worker.drain.close()
    assert await figures(tenant, key_id) == [(True, 1), (True, 1)]
    assert (await figures(tenant, key_id, to="now-5m"))[0] == (True, 1)


async def test_figures_are_old_while_there_is_no_room_for_what_was_decided(
    node: Node, tmp_path: Path, clock: ManualClock
) -> None:
    """What lies beside a full spool is taken by nobody yet, though all that is in the spool was."""
    tenant = await node.tenant()
    key_id, secret = await make_key(tenant)
    events = node.runtime.events
    events._max_bytes = 0
    await tenant.check(api_key=secret)
    assert await figures(tenant, key_id) == [(False, 0), (False, 0)]
    events._max_bytes = 1 << 30
    await events.tick()
    worker = LedgerWorker(
        tmp_path / "spool", LedgerService(node.runtime.database, clock), clock, owner="w", max_bytes=1 << 30
    )
    await worker.drain.catch_up()
    worker.drain.close()
    assert await figures(tenant, key_id) == [(True, 1), (True, 1)]
