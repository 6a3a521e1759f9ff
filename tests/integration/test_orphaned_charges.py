"""Counters in memory give back what a process that was killed left charged, where the ledger surely lacks nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from apishield.core.model import SECOND_US, Limit, Mode, Quota
from apishield.core.rate_limiter.quota import period_of
from apishield.services.reconcile import LOOKS, QuotaDrift
from apishield.stores.spool import SpoolWriter
from apishield.stores.spool.quarantine import put_aside
from apishield.stores.sql.ledger.positions import Positions
from tests.support.checks import make_key, node, tenant
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, running_node

__all__ = ["node", "tenant"]


@pytest.fixture
def clock() -> ManualClock:
    """At the present: spools are of real files."""
    return ManualClock(time.time_ns() // 1000)


def tokens(**more: Any) -> Limit:
    return Limit(id="", name="tokens", algorithm=Quota(20_000), unit="tokens", **more)


async def reserve(tenant: Tenant, secret: str) -> str:
    decision = await tenant.check(api_key=secret, cost={"tokens": 1000}, reserve=True)
    decision_id: str = decision["decision_id"]
    return decision_id


async def settle(tenant: Tenant, decision_id: str, units: int) -> None:
    report = {"decision_id": decision_id, "status": 200, "latency_ms": 1, "cost": {"tokens": units}}
    assert (await tenant.post("/v1/report", {"events": [report]})).status_code == 202


async def orphan(tenant: Tenant, key_id: str, units: int) -> None:
    """Charges what no event tells of."""
    await tenant.node.runtime.store.charge([counter_of(tenant, key_id)], [units])


def counter_of(tenant: Tenant, key_id: str) -> Any:
    view = tenant.node.runtime.snapshot.tenant(tenant.id)
    assert view is not None
    return view.keys[key_id].limits.counters[-1]


async def used(tenant: Tenant, key_id: str) -> int:
    answer = tenant.node.runtime.store.decide([counter_of(tenant, key_id)], [0])
    verdict = await answer if hasattr(answer, "__await__") else answer
    return 20_000 - int(verdict.outcomes[0].remaining)


async def looked(node: Node, times: int = LOOKS) -> list[QuotaDrift]:
    found: list[QuotaDrift] = []
    for _ in range(times):
        await node.runtime.freshness.wait()
        found = await node.runtime.reconciler.step()
    return found


async def test_what_was_settled_right_before_a_process_was_killed_is_no_use_of_the_next(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running_node(tmp_path, clock) as killed:
        tenant = await killed.tenant()
        key_id, secret = await make_key(tenant, quotas=(tokens(),))
        reserved = [await reserve(tenant, secret) for _ in range(15)]
        await killed.runtime.usage.flush()
        for decision_id in reserved:
            await settle(tenant, decision_id, 5)
        killed.runtime.usage._quotas.clear()  # what it noted since the last flush is lost with it
    async with running_node(tmp_path, clock) as restarted:
        again = tenant.on(restarted)
        assert await used(again, key_id) == 15_000
        (drift,) = await looked(restarted)
        assert (drift.ledger, drift.live, drift.orphaned, drift.healed) == (75, 15_000, 14_925, True)
        assert await used(again, key_id) == 75
        assert await looked(restarted, LOOKS + 2) == []
        assert await used(again, key_id) == 75
    async with running_node(tmp_path, clock) as once_more:
        assert await used(tenant.on(once_more), key_id) == 75


async def test_units_that_were_charged_and_never_written_down_are_given_back(node: Node, tenant: Tenant) -> None:
    key_id, secret = await make_key(tenant, quotas=(tokens(),))
    await reserve(tenant, secret)
    await orphan(tenant, key_id, 300)
    (drift,) = await looked(node)
    assert (drift.orphaned, drift.healed) == (300, True)
    assert await used(tenant, key_id) == 1000


async def test_reservations_that_are_settled_one_by_one_are_not_given_back_again(node: Node, tenant: Tenant) -> None:
    """Each look finds the counter of the last one above the ledger, as if the same were orphaned all the time."""
    key_id, secret = await make_key(tenant, quotas=(tokens(),))
    reserved = [await reserve(tenant, secret) for _ in range(8)]
    for settled, decision_id in enumerate(reserved):
        await looked(node, 1)
        assert await used(tenant, key_id) == 8000 - 990 * settled
        await settle(tenant, decision_id, 10)


async def test_nothing_is_given_back_while_another_process_has_left_something(
    node: Node, tenant: Tenant, tmp_path: Path, clock: ManualClock
) -> None:
    key_id, secret = await make_key(tenant, quotas=(tokens(),))
    await reserve(tenant, secret)
    await orphan(tenant, key_id, 300)
    left = SpoolWriter(tmp_path / "spool", 7, clock)
    (drift,) = await looked(node, LOOKS + 1)
    assert (drift.orphaned, drift.healed) == (300, False)
    assert await used(tenant, key_id) == 1300
    left.close()
    assert node.runtime.drain is not None
    await node.runtime.drain.catch_up()  # finds that its process is gone, and removes it
    await looked(node, LOOKS)
    assert await used(tenant, key_id) == 1000


async def test_nothing_is_given_back_while_the_ledger_is_behind(tmp_path: Path, clock: ManualClock) -> None:
    async with running_node(tmp_path, clock) as before:
        tenant = await before.tenant()
        key_id, secret = await make_key(tenant, quotas=(tokens(),))
        await reserve(tenant, secret)
    async with running_node(tmp_path, clock, ledger="off") as node:
        again = tenant.on(node)
        await reserve(again, secret)
        for _ in range(LOOKS + 2):
            await node.runtime.reconciler.step()
        assert node.runtime.reconciler.stats.drift_units == {"missing": 0, "orphaned": 0, "waiting": 1000}
        assert await used(again, key_id) == 2000


async def test_nothing_is_given_back_where_a_part_of_a_spool_was_put_aside(
    node: Node, tenant: Tenant, tmp_path: Path
) -> None:
    key_id, secret = await make_key(tenant, quotas=(tokens(),))
    await reserve(tenant, secret)
    await orphan(tenant, key_id, 300)
    assert put_aside(tmp_path / "spool", "damaged", b"events") is not None
    await looked(node, LOOKS + 1)
    assert await used(tenant, key_id) == 1300


async def test_nothing_is_given_back_where_kafka_may_hold_events(node: Node, tenant: Tenant) -> None:
    key_id, secret = await make_key(tenant, quotas=(tokens(),))
    await reserve(tenant, secret)
    await orphan(tenant, key_id, 300)
    async with node.runtime.database.transaction() as tx:
        await Positions(tx.connection).claim("kafka:events:0", "worker", node.runtime.clock())
    await looked(node, LOOKS + 1)
    assert await used(tenant, key_id) == 1300


@pytest.mark.parametrize("more", [{"charge_refused": True}, {"mode": Mode.SHADOW}])
async def test_nothing_is_given_back_of_a_quota_that_the_ledger_does_not_know_all_of(
    node: Node, tenant: Tenant, more: dict[str, Any]
) -> None:
    key_id, secret = await make_key(tenant, quotas=(tokens(**more),))
    await reserve(tenant, secret)
    await orphan(tenant, key_id, 300)
    await looked(node, LOOKS + 1)
    assert await used(tenant, key_id) == 1300


async def test_nothing_is_given_back_of_a_period_whose_beginning_the_ledger_leaves_out(
    node: Node, tenant: Tenant, clock: ManualClock
) -> None:
    zone = Limit(id="", name="tokens", algorithm=Quota(20_000, "month", "Asia/Kolkata"), unit="tokens")
    key_id, secret = await make_key(tenant, quotas=(zone,))
    await reserve(tenant, secret)
    start_us, _ = period_of(Quota(20_000, "month", "Asia/Kolkata"), clock())
    clock.now_us = start_us + 20 * 86_400 * SECOND_US
    await reserve(tenant, secret)
    await orphan(tenant, key_id, 300)
    before = await used(tenant, key_id)
    await looked(node, LOOKS + 1)
    assert await used(tenant, key_id) == before
