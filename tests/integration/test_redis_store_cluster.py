"""The Redis store over a real Cluster of three nodes, also while slots move and nodes go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.crc import key_slot

from apishield.core.counter_keys import counter_key, once_key, record_key
from apishield.core.model import (
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Once,
    OnStoreFailure,
    Quota,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.core.ports import Hold
from apishield.errors import StoreUnavailable
from apishield.stores.failover import FailoverStore
from apishield.stores.redis import RedisStore
from tests.conformance.targets import redis_target
from tests.support.clock import ManualClock
from tests.support.processes import Reaper, wait_until
from tests.support.redis_cluster import NODES, ClusterOf, running_cluster

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_MS = 86_400_000
RULES: list[Algorithm] = [
    SlidingWindow(1000, HOUR_US),
    FixedWindow(1000, HOUR_US),
    TokenBucket(1000, HOUR_US, 1000),
    Quota(1000),
]


def counters(tenant: str) -> list[Counter]:
    limits = [Limit(id=f"lim_{index}", name="x", algorithm=rule) for index, rule in enumerate(RULES)]
    return [Counter(counter_key(tenant, "live", limit, {"key": "key_1"}), limit) for limit in limits]


async def ask(store: RedisStore, tenant: str, cost: int = 1) -> Verdict:
    verdict = store.decide(counters(tenant), [cost] * len(RULES))
    return verdict if isinstance(verdict, Verdict) else await verdict


def owner_of(cluster: ClusterOf, tenant: str) -> int:
    """The index of the node that holds a tenant's counters."""
    return cluster.owner_of(counters(tenant)[0].key)


@pytest.fixture(scope="module")
def cluster(reaper: Reaper, request: pytest.FixtureRequest) -> Iterator[ClusterOf]:
    request.getfixturevalue("redis_server")  # says what is missing where Redis is not installed
    with running_cluster(reaper) as cluster:
        yield cluster


@pytest.fixture
async def store(cluster: ClusterOf) -> AsyncIterator[RedisStore]:
    store = RedisStore(cluster.url, timeout_ms=10_000)
    yield store
    await store.close()


async def test_tenants_of_all_nodes_are_decided_in_one_call_each(cluster: ClusterOf, store: RedisStore) -> None:
    tenants = [f"ten_{number}" for number in range(30)]
    owners = {owner_of(cluster, tenant) for tenant in tenants}
    assert owners == {0, 1, 2}
    for expected in (999, 998):
        verdicts = await asyncio.gather(*(ask(store, tenant) for tenant in tenants))
        assert all(outcome.remaining == expected for verdict in verdicts for outcome in verdict.outcomes)


async def test_every_key_expires_and_none_outlives_its_use_on_any_node(cluster: ClusterOf) -> None:
    for client in cluster.clients:
        client.flushall()
    store = RedisStore(cluster.url, timeout_ms=10_000)
    slots = Limit(id="lim_slots", name="x", algorithm=Concurrency(5, HOUR_US))
    for number in range(12):
        tenant = f"ten_{number}"
        held = [*counters(tenant), Counter(counter_key(tenant, "live", slots, {"key": "key_1"}), slots)]
        hold = Hold(record_key(tenant, "dec_1"), 60, (1,) * len(held), settles=True)
        once = Once(once_key(tenant, "one"), "q")
        for cost in (1, 1, 2_000):
            verdict = store.decide_once(once, held, [cost] * len(held), "dec_1", hold)
            assert (verdict if isinstance(verdict, Verdict) else await verdict).admitted
        await ask(store, tenant)
        await ask(store, tenant, cost=2_000)
        if number % 2:
            kept = await store.held(hold.record_key)
            assert kept is not None
            assert await store.settle(hold.record_key, kept, [3] * len(held), "dec_1")
    await store.close()
    alive = {key: client.pttl(key) for client in cluster.clients for key in client.scan_iter()}
    assert len(alive) == 12 * (len(RULES) + 2) + 6  # counters, slots, the verdict; the record where it was not settled
    longest = {b"qu": 31 * DAY_MS, b"once": 60_000, b"held": 60_000}
    for key, ttl_ms in alive.items():
        parts = key.split(b"|")
        kind = parts[1] if len(parts) == 3 else parts[3]
        assert 0 < ttl_ms <= longest.get(kind, 3_600_000), key


@pytest.mark.parametrize("requests", [10, 1000, 10**9])
def test_a_sliding_window_keeps_at_most_16_kib_and_little_where_the_limit_is_small(
    cluster: ClusterOf, requests: int
) -> None:
    with redis_target(cluster.url) as target:
        subject = target.counter("a", SlidingWindow(requests, 1000 * SECOND_US))
        for step in range(2500):
            target.clock.now_us += SECOND_US + step % 3
            target.decide([subject], [1])
        size = cluster.clients[cluster.owner_of(subject.key)].strlen(subject.key)
        assert 0 < size <= min(16_384, 600 + 12 * requests)


async def test_no_charge_is_lost_or_made_twice_while_a_slot_moves(cluster: ClusterOf, store: RedisStore) -> None:
    tenant = "ten_moving"
    slot = key_slot(counters(tenant)[0].key.encode())
    source = owner_of(cluster, tenant)
    target = (source + 1) % NODES
    old, new = cluster.clients[source], cluster.clients[target]
    old_id, new_id = old.execute_command("CLUSTER MYID"), new.execute_command("CLUSTER MYID")
    for expected in (999, 998):
        assert [outcome.remaining for outcome in (await ask(store, tenant)).outcomes] == [expected] * 4
    new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
    old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
    for counter in counters(tenant):
        old.execute_command("MIGRATE", "127.0.0.1", cluster.servers[target].port, counter.key, 0, 5000)
    assert [outcome.remaining for outcome in (await ask(store, tenant)).outcomes] == [997] * 4  # asked at the new node
    for client in (new, old):
        client.execute_command("CLUSTER SETSLOT", slot, "NODE", new_id)
    for expected in (996, 995):
        assert [outcome.remaining for outcome in (await ask(store, tenant)).outcomes] == [expected] * 4


async def test_while_one_node_is_frozen_the_others_decide_what_is_theirs(cluster: ClusterOf) -> None:
    """Also where most is asked of the frozen one."""
    redis = RedisStore(cluster.url, timeout_ms=500)  # a busy machine is no frozen node
    store = FailoverStore(redis, ManualClock(time.time_ns() // 1000), place_of=redis.place_of)
    tenants = [f"ten_{number}" for number in range(100, 160)]
    owners = [owner_of(cluster, tenant) for tenant in tenants]
    assert set(owners) == {0, 1, 2}
    deny = Limit(id="lim_deny", name="x", algorithm=FixedWindow(1000, HOUR_US), on_store_failure=OnStoreFailure.DENY)

    async def all_of(tenant: str, checks: int) -> list[Verdict]:
        counter = Counter(counter_key(tenant, "live", deny, {"key": "key_1"}), deny)
        asked = [store.decide([counter], [1]) for _ in range(checks)]
        return [verdict if isinstance(verdict, Verdict) else await verdict for verdict in asked]

    async def round_of_all() -> dict[str, list[Verdict]]:
        answers = await asyncio.gather(
            *(all_of(tenant, 40 if owner == 1 else 1) for tenant, owner in zip(tenants, owners, strict=True))
        )
        return dict(zip(tenants, answers, strict=True))

    await round_of_all()  # connections to all
    for client in cluster.clients:  # else Redis itself refuses everything after a second without a node
        client.config_set("cluster-require-full-coverage", "no")
    cluster.servers[1].stop()
    try:
        for _ in range(10):
            for (tenant, verdicts), owner in zip((await round_of_all()).items(), owners, strict=True):
                if owner != 1:
                    assert not any(verdict.degraded or verdict.denied for verdict in verdicts), tenant
        assert store.is_degraded
    finally:
        cluster.servers[1].heal()
        await asyncio.to_thread(
            wait_until,
            lambda: all(node.cluster("info")["cluster_state"] == "ok" for node in cluster.clients),
            "agreement",
        )
    while store.is_degraded:
        await asyncio.sleep(0.01)
    assert not any(verdict.degraded for verdicts in (await round_of_all()).values() for verdict in verdicts)
    await store.close()


async def test_a_node_that_is_gone_harms_no_tenant_of_the_others(cluster: ClusterOf, store: RedisStore) -> None:
    tenants = [f"ten_{number}" for number in range(40, 70)]
    await asyncio.gather(*(ask(store, tenant) for tenant in tenants))
    for client in cluster.clients:
        client.config_set("cluster-require-full-coverage", "no")
    cluster.servers[2].kill()
    answers = await asyncio.gather(*(ask(store, tenant) for tenant in tenants), return_exceptions=True)
    owners = [owner_of(cluster, tenant) for tenant in tenants]
    for owner, answer in zip(owners, answers, strict=True):
        assert isinstance(answer, StoreUnavailable) if owner == 2 else isinstance(answer, Verdict)
