"""Live quota counters and the ledger are held against each other, and counters that lost something are healed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import redis
from sqlalchemy import update

from apishield.core.events import DecisionEvent
from apishield.core.model import SECOND_US, Counter, Limit, Mode, Quota
from apishield.core.rate_limiter.quota import period_of
from apishield.services.ledger import LedgerService
from apishield.services.quota_use import ledger_use, quotas_of
from apishield.services.reconcile import LOOKS, QuotaDrift, Reconciler
from apishield.services.rollup_checks import rollup_drift
from apishield.stores.sql.ledger.tables import rollup_hour, rollup_week
from apishield.workers.ledger import LedgerWorker
from tests.support.checks import make_key
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, running_node


@pytest.fixture
def clock() -> ManualClock:
    """Near Redis' own time, which the test can't own."""
    return ManualClock(time.time_ns() // 1000)


@pytest_asyncio.fixture(params=["memory, SQLite", "Redis, PostgreSQL"])
async def node(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Node]:
    """A node of each kind."""
    urls = {}
    if request.param.startswith("Redis"):
        urls = {
            "database_url": request.getfixturevalue("postgres_url"),
            "redis_url": request.getfixturevalue("redis_url"),
        }
    async with running_node(tmp_path, clock, **urls) as running:
        yield running


@pytest_asyncio.fixture
async def tenant(node: Node) -> Tenant:
    return await node.tenant()


def quota(requests: int, **more: Any) -> Limit:
    rule = Quota(requests, more.pop("period", "month"), more.pop("time_zone", "UTC"))
    return Limit(id="", name=more.pop("name", "monthly"), algorithm=rule, **more)


async def counter_of(tenant: Tenant, key_id: str) -> Counter:
    view = tenant.node.runtime.snapshot.tenant(tenant.id)
    assert view is not None
    return view.keys[key_id].limits.counters[-1]


async def looked(reconciler: Reconciler, node: Node, times: int = LOOKS, *, heal: bool = True) -> list[QuotaDrift]:
    """What the last of some looks finds, with all events in the ledger at each."""
    found: list[QuotaDrift] = []
    for _ in range(times):
        await node.runtime.freshness.wait()
        found = await reconciler.step(heal=heal)
    return found


async def used(node: Node, counter: Counter) -> int:
    """What the live counter says; asking seeds one that was lost."""
    answer = node.runtime.store.decide([counter], [0])
    verdict = answer if not hasattr(answer, "__await__") else await answer
    return counter.limit.algorithm.ceiling - verdict.outcomes[0].remaining


def elsewhere(node: Node, tenant: Tenant, key_id: str, units: Any, **more: Any) -> DecisionEvent:
    """A decision that the ledger gets to know and the counter does not: its store has lost the charge."""
    fields = {"flags": 0, "key_id": key_id, "method": "GET", "path": "/", "units": units, **more}
    return DecisionEvent(1_000_000, fields.pop("at_us", node.runtime.clock()), tenant.id, "ok", **fields)


async def test_counters_that_agree_with_the_ledger_drift_by_nothing(node: Node, tenant: Tenant) -> None:
    _, secret = await make_key(tenant, quotas=(quota(10),))
    await make_key(tenant, name="never used", quotas=(quota(10),))
    assert [(await tenant.check(api_key=secret))["allowed"] for _ in range(12)] == [True] * 10 + [False] * 2
    reconciler = node.runtime.reconciler
    assert await looked(reconciler, node, LOOKS + 2) == []
    assert reconciler.stats.checked == 1
    assert reconciler.stats.drift_units == {"missing": 0, "orphaned": 0, "waiting": 0}


async def test_charges_that_a_store_lost_are_charged_again_once(node: Node, tenant: Tenant) -> None:
    key_id, secret = await make_key(tenant, quotas=(quota(10),))
    await tenant.check(api_key=secret)
    node.runtime.events.append(elsewhere(node, tenant, key_id, 4))
    counter = await counter_of(tenant, key_id)
    reconciler = node.runtime.reconciler
    assert await looked(reconciler, node, LOOKS - 1) == []
    (drift,) = await looked(reconciler, node, 1)
    assert (drift.key_id, drift.ledger, drift.live, drift.missing, drift.healed) == (key_id, 5, 1, 4, True)
    assert await used(node, counter) == 5
    assert await looked(reconciler, node, LOOKS + 1) == []
    assert await used(node, counter) == 5
    assert reconciler.stats.healed_units == 4
    assert [(await tenant.check(api_key=secret))["allowed"] for _ in range(6)] == [True] * 5 + [False]


async def test_drift_can_be_shown_without_being_healed(node: Node, tenant: Tenant) -> None:
    key_id, secret = await make_key(tenant, quotas=(quota(10),))
    await tenant.check(api_key=secret)
    node.runtime.events.append(elsewhere(node, tenant, key_id, 4))
    for _ in range(2):
        (drift,) = await looked(node.runtime.reconciler, node, heal=False)
        assert (drift.missing, drift.healed) == (4, False)
    assert await used(node, await counter_of(tenant, key_id)) == 1


@pytest.mark.parametrize("node", ["Redis, PostgreSQL"], indirect=True)
async def test_units_that_were_charged_and_never_written_down_are_orphans_and_stay(node: Node, tenant: Tenant) -> None:
    key_id, secret = await make_key(tenant, quotas=(quota(10),))
    await tenant.check(api_key=secret)
    counter = await counter_of(tenant, key_id)
    await node.runtime.store.charge([counter], [3])
    (drift,) = await looked(node.runtime.reconciler, node, LOOKS + 1)
    assert (drift.ledger, drift.live, drift.orphaned, drift.missing) == (1, 4, 3, 0)
    assert node.runtime.reconciler.stats.orphan_charges == 3
    assert await used(node, counter) == 4


async def test_what_nobody_has_taken_yet_is_counted_as_waiting_and_not_as_orphaned(
    tmp_path: Path, clock: ManualClock, postgres_url: str, redis_url: str
) -> None:
    async with running_node(tmp_path, clock, ledger="off", database_url=postgres_url, redis_url=redis_url) as node:
        tenant = await node.tenant()
        key_id, secret = await make_key(tenant, quotas=(quota(100),))
        for _ in range(3):
            await tenant.check(api_key=secret)
        await node.runtime.store.charge([await counter_of(tenant, key_id)], [2])  # as of a process that was killed
        await node.runtime.usage.flush()
        reconciler = node.runtime.reconciler

        async def told() -> dict[str, int]:
            (drift,) = await looked(reconciler, node, LOOKS + 1, heal=False)
            assert drift.orphaned == sum(reconciler.stats.drift_units.values())
            return reconciler.stats.drift_units

        assert await told() == {"missing": 0, "orphaned": 0, "waiting": 5}
        worker = LedgerWorker(
            tmp_path / "spool", LedgerService(node.runtime.database, clock), clock, owner="w", max_bytes=1 << 30
        )
        await worker.drain.catch_up()
        assert await told() == {"missing": 0, "orphaned": 2, "waiting": 0}
        for _ in range(3):
            await tenant.check(api_key=secret)
        assert await told() == {"missing": 0, "orphaned": 2, "waiting": 3}, "what was sure stays so"
        await worker.drain.catch_up()
        assert await told() == {"missing": 0, "orphaned": 2, "waiting": 0}
        worker.drain.close()


async def test_what_is_on_its_way_is_no_drift(node: Node, tenant: Tenant) -> None:
    _, secret = await make_key(tenant, quotas=(quota(1000, unit="tokens", name="tokens"),))
    ask = {"api_key": secret, "cost": {"tokens": 100}, "reserve": True}
    reconciler = node.runtime.reconciler
    for _ in range(LOOKS + 2):
        decision = await tenant.check(**ask)  # charged here, not yet in the ledger
        assert await reconciler.step() == []
        await node.runtime.freshness.wait()
        report = {"decision_id": decision["decision_id"], "status": 200, "latency_ms": 1, "cost": {"tokens": 10}}
        await tenant.post("/v1/report", {"events": [report]})  # given back here; in the ledger still charged
        assert await reconciler.step() == []
        await node.runtime.freshness.wait()
    assert await looked(reconciler, node, LOOKS + 1) == []
    assert reconciler.stats.healed_units == 0


async def test_settled_and_released_units_agree(node: Node, tenant: Tenant) -> None:
    key_id, secret = await make_key(tenant, quotas=(quota(1000, unit="tokens", name="tokens"), quota(50)))
    ask = {"api_key": secret, "cost": {"requests": 1, "tokens": 100}, "reserve": True}
    first, second, _ = [await tenant.check(**ask) for _ in range(3)]
    report = {"decision_id": first["decision_id"], "status": 200, "latency_ms": 1, "cost": {"tokens": 130}}
    await tenant.post("/v1/report", {"events": [report]})
    await tenant.post(f"/v1/decisions/{second['decision_id']}/release", {})
    assert await looked(node.runtime.reconciler, node, LOOKS + 1) == []
    view = node.runtime.snapshot.tenant(tenant.id)
    assert view is not None
    tokens, requests = view.keys[key_id].limits.counters
    assert (await used(node, tokens), await used(node, requests)) == (230, 2)


async def test_use_beyond_a_quota_is_not_drift(node: Node, tenant: Tenant) -> None:
    _, secret = await make_key(tenant, quotas=(quota(100, unit="tokens", name="tokens"),))
    decision = await tenant.check(api_key=secret, cost={"tokens": 90}, reserve=True)
    report = {"decision_id": decision["decision_id"], "status": 200, "latency_ms": 1, "cost": {"tokens": 500}}
    await tenant.post("/v1/report", {"events": [report]})
    assert await looked(node.runtime.reconciler, node, LOOKS + 1) == []


async def test_use_beyond_a_quota_that_a_store_lost_is_charged_again(node: Node, tenant: Tenant) -> None:
    key_id, secret = await make_key(tenant, quotas=(quota(10),))
    assert all([(await tenant.check(api_key=secret))["allowed"] for _ in range(10)])
    node.runtime.events.append(elsewhere(node, tenant, key_id, 30))
    (drift,) = await looked(node.runtime.reconciler, node)
    assert (drift.ledger, drift.live, drift.missing, drift.healed) == (40, 10, 30, True)
    assert await used(node, await counter_of(tenant, key_id)) == 40


async def test_what_a_quota_in_shadow_would_have_refused_is_no_drift(node: Node, tenant: Tenant) -> None:
    _, secret = await make_key(tenant, quotas=(quota(10, mode=Mode.SHADOW),))
    assert all([(await tenant.check(api_key=secret))["allowed"] for _ in range(15)])
    assert await looked(node.runtime.reconciler, node, LOOKS + 1) == []


async def test_a_quota_is_right_at_the_first_check_after_redis_has_lost_everything(
    tmp_path: Path, clock: ManualClock, postgres_url: str, redis_url: str
) -> None:
    urls = {"database_url": postgres_url, "redis_url": redis_url}
    async with running_node(tmp_path / "a", clock, **urls) as one, running_node(tmp_path / "b", clock, **urls) as other:
        tenant = await one.tenant()
        key_id, secret = await make_key(tenant, quotas=(quota(10),))
        for _ in range(6):
            await tenant.check(api_key=secret)
        await one.runtime.freshness.wait()  # the ledger has it; what the node noted of quotas is not written
        await other.runtime.snapshot.catch_up()
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        assert await used(other, await counter_of(tenant, key_id)) == 6
        assert [(await tenant.check(api_key=secret))["allowed"] for _ in range(5)] == [True] * 4 + [False]
        assert await looked(one.runtime.reconciler, one, LOOKS + 1) == []


async def test_of_the_nodes_that_share_counters_one_looks_after_them(
    tmp_path: Path, clock: ManualClock, postgres_url: str, redis_url: str
) -> None:
    urls = {"database_url": postgres_url, "redis_url": redis_url}
    async with running_node(tmp_path / "a", clock, **urls) as one, running_node(tmp_path / "b", clock, **urls) as other:
        nodes = sorted((one.runtime, other.runtime), key=lambda runtime: runtime.node_id)
        for runtime in nodes:
            await runtime._beat()
            await runtime._reconcile()
        assert [runtime.reconciler.stats.rounds for runtime in nodes] == [1, 0]
        clock.advance(11)  # the first one died
        await nodes[1]._beat()
        await nodes[1]._reconcile()
        assert nodes[1].reconciler.stats.rounds == 1


@pytest.mark.parametrize("node", ["memory, SQLite"], indirect=True)
@pytest.mark.parametrize("time_zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "Pacific/Auckland", "America/St_Johns"])
@pytest.mark.parametrize("period", ["day", "month"])
async def test_the_ledger_is_asked_for_the_period_of_the_quotas_own_time_zone(
    node: Node, tenant: Tenant, clock: ManualClock, time_zone: str, period: str
) -> None:
    key_id, _ = await make_key(tenant, quotas=(quota(1000, period=period, time_zone=time_zone),))
    view = node.runtime.snapshot.tenant(tenant.id)
    assert view is not None
    (asked,) = quotas_of([view.keys[key_id]], clock())
    start_us, _ = period_of(Quota(1000, period, time_zone), clock())  # type: ignore[arg-type]
    assert asked.start_us == start_us
    for sequence, (at_us, units) in enumerate(
        [(start_us - SECOND_US, 500), (start_us + 3600 * SECOND_US, 7), (clock(), 30)]
    ):
        event = elsewhere(node, tenant, key_id, units, at_us=at_us)
        node.runtime.events.append(_numbered(event, sequence))
    await node.runtime.freshness.wait()
    async with node.runtime.database.read() as tx:
        found = await ledger_use(tx, [asked], clock())
    assert found == {(asked.counter.key, start_us): 37}


def _numbered(event: DecisionEvent, sequence: int) -> DecisionEvent:
    return msgspec.structs.replace(event, sequence=2_000_000 + sequence)


@pytest.mark.parametrize("node", ["memory, SQLite"], indirect=True)
async def test_what_can_no_longer_be_told_apart_from_the_period_before_is_left_out(
    node: Node, tenant: Tenant, clock: ManualClock
) -> None:
    """Kolkata's months begin at half past an hour of UTC; minutes are kept for 7 days, so later only the next hour is sure."""
    rule = Quota(1000, "month", "Asia/Kolkata")
    start_us, _ = period_of(rule, clock())
    clock.now_us = start_us + 20 * 86_400 * SECOND_US
    key_id, _ = await make_key(tenant, quotas=(quota(1000, time_zone="Asia/Kolkata"),))
    view = node.runtime.snapshot.tenant(tenant.id)
    assert view is not None
    (asked,) = quotas_of([view.keys[key_id]], clock())
    for sequence, (after_s, units) in enumerate([(-60, 500), (60, 7), (3600, 30)]):
        event = elsewhere(node, tenant, key_id, units, at_us=start_us + after_s * SECOND_US)
        node.runtime.events.append(_numbered(event, sequence))
    await node.runtime.freshness.wait()
    async with node.runtime.database.read() as tx:
        assert await ledger_use(tx, [asked], clock()) == {(asked.counter.key, start_us): 30}


async def test_rollups_agree_with_one_another_until_somebody_changes_one(node: Node, tenant: Tenant) -> None:
    _, secret = await make_key(tenant, quotas=(quota(4),))
    for path in ("/a", "/b", "/a", "/c", "/a"):
        await tenant.check(api_key=secret, method="GET", path=path, country="DE")
    await tenant.check(method="GET", path="/a", ip="192.0.2.1")
    await node.runtime.freshness.wait()
    database = node.runtime.database
    assert await rollup_drift(database, node.runtime.clock) == []
    async with database.transaction() as tx:
        await tx.connection.execute(update(rollup_hour).values(cost=rollup_hour.c.cost + 1))
    found = await rollup_drift(database, node.runtime.clock)
    assert {(drift.one, drift.other, drift.measure) for drift in found} >= {
        ("minute key", "hour key", "cost"),
        ("hour tenant", "day tenant", "cost"),
    }
    assert {drift.measure for drift in found} == {"cost"}
    async with database.transaction() as tx:
        await tx.connection.execute(update(rollup_hour).values(cost=rollup_hour.c.cost - 1))
        await tx.connection.execute(update(rollup_week).values(requests=rollup_week.c.requests + 1))
    found = await rollup_drift(database, node.runtime.clock, days=1)
    assert [(drift.one, drift.other, drift.measure) for drift in found] == [("day key", "week key", "requests")]
