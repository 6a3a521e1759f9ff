"""A Redis that was restarted or replaced may have forgotten charges: verdicts that reach back to then say so, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis as redis_py

from apishield.api.readiness import reasons_against, warnings_about
from apishield.core.counter_keys import counter_key
from apishield.core.model import (
    SECOND_US,
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Quota,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.errors import StoreUnavailable
from apishield.stores.redis import RedisStore
from apishield.stores.redis.runs import LONGEST_MARKED_US, Facts, Runs, facts_of
from tests.support.clock import START_US, ManualClock
from tests.support.node import running_node
from tests.support.processes import Reaper, free_port, wait_until
from tests.support.redis_cluster import ClusterOf, running_cluster
from tests.support.services import RedisServer

MINUTE_US = 60 * SECOND_US
PATIENT_MS = 10_000


def counter(rule: Algorithm, tenant: str = "ten_1") -> Counter:
    limit = Limit(id=f"lim_{rule}", name="x", algorithm=rule)
    return Counter(counter_key(tenant, "live", limit, {"key": "key_1"}), limit)


async def is_marked(store: RedisStore, *rules: Algorithm, tenant: str = "ten_1") -> bool:
    """Whether a verdict over ``rules`` is degraded; asked again while there is nobody."""
    counters = [counter(rule, tenant) for rule in rules]
    async with asyncio.timeout(30):
        while True:
            try:
                verdict = store.decide(counters, [1] * len(counters), "dec_1")
                return (verdict if isinstance(verdict, Verdict) else await verdict).degraded
            except StoreUnavailable:
                await asyncio.sleep(0.05)


@pytest.fixture
async def store(redis_url: str, clock: ManualClock) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_url, timeout_ms=PATIENT_MS, test_clock=clock)
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("rule", "reach_us"),
    [
        (SlidingWindow(10, MINUTE_US), MINUTE_US),
        (FixedWindow(10, MINUTE_US), MINUTE_US - START_US % MINUTE_US),
        (TokenBucket(10, MINUTE_US, 20), 2 * MINUTE_US),
        (Concurrency(10, MINUTE_US), MINUTE_US),
        (SlidingWindow(10, 31 * 86_400 * SECOND_US), LONGEST_MARKED_US),
    ],
    ids=repr,
)
async def test_after_a_restart_verdicts_are_degraded_for_as_long_as_a_window_reaches_back(
    store: RedisStore, redis_server: RedisServer, clock: ManualClock, rule: Algorithm, reach_us: int
) -> None:
    assert not await is_marked(store, rule)
    redis_server.kill()
    redis_server.heal()
    assert await is_marked(store, rule)
    clock.now_us += reach_us - 2 * SECOND_US  # the restart was up to a second before it was seen
    assert await is_marked(store, rule)
    clock.now_us += 2 * SECOND_US
    assert not await is_marked(store, rule)
    clock.now_us += LONGEST_MARKED_US
    assert not await is_marked(store, rule)
    assert not store.servers.may_have_forgotten


async def test_quotas_are_not_marked_because_they_are_rebuilt(store: RedisStore, redis_server: RedisServer) -> None:
    await is_marked(store, Quota(10))
    redis_server.kill()
    redis_server.heal()
    assert not await is_marked(store, Quota(10))
    assert await is_marked(store, Quota(10), SlidingWindow(10, MINUTE_US))


async def test_a_connection_that_was_cut_marks_nothing(store: RedisStore, redis_url: str) -> None:
    assert not await is_marked(store, SlidingWindow(10, MINUTE_US))
    with redis_py.Redis.from_url(redis_url) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert not await is_marked(store, SlidingWindow(10, MINUTE_US))


def test_a_restart_counts_from_when_it_was_and_a_fail_over_from_when_it_is_seen() -> None:
    now_us = 10**12
    for uptime_seconds, silent_seconds, ago_seconds in [(5, 3600.0, 5), (3600, 3600.5, 3600), (86_400, 2.0, 0)]:
        runs = Runs(lambda: None)
        runs.learn(Facts("one", 1000), 1e9)
        assert runs.lost_at_us(now_us) is None
        runs.learn(Facts("two", uptime_seconds), silent_seconds)
        assert runs.may_have_forgotten
        lost_at_us = runs.lost_at_us(now_us)
        assert lost_at_us == (
            None if ago_seconds * SECOND_US >= LONGEST_MARKED_US else now_us - ago_seconds * SECOND_US
        )


def test_a_server_that_does_not_introduce_itself_marks_nothing() -> None:
    runs = Runs(lambda: None)
    for facts in (facts_of(redis_py.ResponseError("NOPERM")), Facts("one"), Facts(), Facts("one"), facts_of(b"")):
        runs.learn(facts, 0.0)
    assert not runs.may_have_forgotten


# --- a Cluster ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(reaper: Reaper, request: pytest.FixtureRequest) -> Iterator[ClusterOf]:
    request.getfixturevalue("redis_server")  # says what is missing where Redis is not installed
    with running_cluster(reaper) as cluster:
        yield cluster


@pytest.fixture
def replica(cluster: ClusterOf, reaper: Reaper) -> Iterator[RedisServer]:
    """A replica of the first node."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"]
    server = RedisServer(reaper, "redis-server", *options, "--cluster-port", str(free_port()))
    with server.client() as client:
        first = cluster.servers[0]
        bus = cluster.clients[0].config_get("cluster-port")["cluster-port"]
        client.execute_command("CLUSTER MEET", "127.0.0.1", first.port, bus)
        primary_id = cluster.clients[0].execute_command("CLUSTER MYID").decode()
        wait_until(lambda: primary_id in str(client.execute_command("CLUSTER NODES")), "the nodes to have met")
        client.execute_command("CLUSTER REPLICATE", primary_id)
        wait_until(lambda: client.info("replication").get("master_link_status") == "up", "the replica to follow")
    yield server
    server.kill()


async def test_in_a_cluster_the_tenants_of_a_node_that_was_replaced_are_marked_and_no_others(
    cluster: ClusterOf, replica: RedisServer
) -> None:
    store = RedisStore(cluster.url, timeout_ms=1000)
    window = SlidingWindow(1000, 3600 * SECOND_US)
    owners = {tenant: cluster.owner_of(counter(window, tenant).key) for tenant in map("ten_{}".format, range(20))}
    assert set(owners.values()) == {0, 1, 2}
    assert not any([await is_marked(store, window, tenant=tenant) for tenant in owners])
    await asyncio.to_thread(cluster.servers[0].kill)
    marked = {tenant for tenant in owners if await is_marked(store, window, tenant=tenant)}
    assert marked == {tenant for tenant, owner in owners.items() if owner == 0}
    await store.close()


# --- what the node tells ------------------------------------------------------------------------------------------------


async def test_a_redis_that_evicts_is_a_warning_and_no_reason_to_leave_the_node_alone(
    tmp_path: Path, redis_url: str, clock: ManualClock
) -> None:
    async with running_node(tmp_path, clock, redis_url=redis_url) as node:

        async def warnings(count: int) -> list[str]:
            async with asyncio.timeout(10):
                while len(found := await warnings_about(node.runtime)) != count:
                    await asyncio.sleep(0.01)
            return found

        with redis_py.Redis.from_url(redis_url) as client:
            try:
                client.config_set("maxmemory-policy", "allkeys-lru")
                found = await warnings(1)
                assert "allkeys-lru" in found[0]
                assert "noeviction" in found[0]
                assert await reasons_against(node.runtime) == []
            finally:
                client.config_set("maxmemory-policy", "noeviction")
        assert await warnings(0) == []


async def test_a_decision_over_a_redis_that_was_restarted_says_that_it_is_degraded(
    tmp_path: Path, redis_url: str, redis_server: RedisServer, clock: ManualClock
) -> None:
    async with running_node(tmp_path, clock, redis_url=redis_url) as node:
        tenant = await node.tenant()
        assert not (await tenant.check(ip="192.0.2.1"))["degraded"]  # the anonymous policy: 60 a minute
        redis_server.kill()
        redis_server.heal()
        decision = await tenant.check(ip="192.0.2.1")
        assert (decision["degraded"], decision["headers"]["X-APIShield-Degraded"]) == (True, "true")
        assert await warnings_about(node.runtime) == []
