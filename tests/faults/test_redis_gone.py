"""Redis is killed or frozen while two nodes are asked: every check is decided, at most a share more, and it heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apishield.core.model import SECOND_US, FixedWindow, Limit, OnStoreFailure, Quota, SlidingWindow, TokenBucket
from apishield.errors import NoAnswer, StoreUnavailable
from apishield.services.reconcile import LOOKS, Reconciler
from tests.faults.load import CALLERS_A_NODE, PATIENCE_SECONDS, Load, asking, new_key, store_of, under_load, until
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, running_node
from tests.support.services import RedisServer

LIMIT = 200
DAYS_US = 31 * 86_400 * SECOND_US  # no window ends within a test
NODES = {0, 1}
CALLERS = len(NODES) * CALLERS_A_NODE  # whose answers may have been on their way
SHARE = LIMIT // len(NODES)
QUOTA = 1_000_000
STALL_MS = 3000  # long enough to be given up

LIMITS = [
    Limit(id="", name="fixed", algorithm=FixedWindow(LIMIT, DAYS_US)),
    Limit(id="", name="sliding", algorithm=SlidingWindow(LIMIT, DAYS_US)),
    Limit(id="", name="bucket", algorithm=TokenBucket(1, DAYS_US, LIMIT)),
]


def assert_decided(load: Load, refusal: str) -> None:
    """Every answer is a decision that means what it says; none is an error of ours."""
    assert {answer.http_status for answer in load.answers} == {200}
    assert {answer.code for answer in load.answers if not answer.allowed} <= {refusal}


async def take_away(redis_server: RedisServer, fault: str) -> None:
    await asyncio.to_thread(redis_server.kill if fault == "kill" else redis_server.stop)


@contextlib.asynccontextmanager
async def stalling(redis_server: RedisServer) -> AsyncIterator[None]:
    """Has Redis pause, again and again, until the block ends: between two pauses it does what it was asked meanwhile."""
    is_over = asyncio.Event()

    async def pause_again() -> None:
        with redis_server.client() as client:
            while not is_over.is_set():  # the next pause is answered when this one is over
                await asyncio.to_thread(client.execute_command, "CLIENT", "PAUSE", STALL_MS, "ALL")

    async with asyncio.TaskGroup() as pauses:
        pauses.create_task(pause_again())
        try:
            yield
        finally:
            is_over.set()


@pytest.mark.parametrize("fault", ["kill", "stop"])
@pytest.mark.parametrize("limit", LIMITS, ids=[limit.name for limit in LIMITS])
async def test_each_node_admits_at_most_its_share_more_and_heals_by_itself(
    nodes: list[Node], redis_server: RedisServer, limit: Limit, fault: str
) -> None:
    tenant, secret = await new_key(nodes, limit)
    async with under_load(nodes, tenant, secret) as load:
        await until(
            lambda: load.admitted() >= LIMIT // 2 and load.seen(0, degraded=False) == NODES,
            "half the limit to be used, and both nodes to know Redis",
        )
        await take_away(redis_server, fault)
        gone = len(load.answers)
        await until(
            lambda: load.seen(gone, degraded=True, allowed=False) == NODES, "both nodes to refuse by themselves"
        )
        await until(lambda: all(store_of(node).is_degraded for node in nodes), "both to leave Redis alone")
        alone = [load.admitted(node=number, degraded=True) for number in NODES]
        admitted_before_healing = load.admitted()
        await asyncio.to_thread(redis_server.heal)
        await until(lambda: not any(store_of(node).is_degraded for node in nodes), "both nodes to ask Redis again")
        healed = len(load.answers)
        await until(lambda: load.seen(healed + CALLERS, allowed=False) == NODES, "Redis to refuse")
        if fault == "kill":  # the decisions say that it may have: the window reaches back to before
            await until(lambda: load.seen(healed + CALLERS, degraded=True) == NODES, "both nodes to notice the restart")

    assert_decided(load, "rate_limited")
    assert max(alone) <= SHARE
    assert admitted_before_healing <= LIMIT + len(NODES) * SHARE
    if fault == "stop":  # a killed Redis without persistence has forgotten what was used before
        assert load.admitted() <= LIMIT + len(NODES) * SHARE
        assert load.seen(healed + CALLERS, degraded=True) == set()
    assert not any(store_of(node).is_degraded for node in nodes)


async def used_of(node: Node, tenant: Tenant, secret: str) -> int | None:
    """What Redis says was used of the quota; ``None`` where it did not say."""
    answer = await asking(node, tenant).check(api_key=secret, method="GET", cost=0)
    return None if answer["degraded"] else QUOTA - answer["limits"][0]["remaining"]


@pytest.mark.parametrize("fault", ["kill", "stop", "stall"])
async def test_quotas_are_right_afterwards_to_the_unit(
    nodes: list[Node], redis_server: RedisServer, fault: str
) -> None:
    """Nothing is lost, and nothing is charged twice: not by a seed from the ledger, not by a call that ran unanswered."""
    tenant, secret = await new_key(nodes, Limit(id="", name="monthly", algorithm=Quota(QUOTA)))
    async with under_load(nodes, tenant, secret) as load:
        await until(lambda: load.admitted() >= 200, "some use")
        if fault != "stall":
            await take_away(redis_server, fault)
        async with stalling(redis_server) if fault == "stall" else contextlib.nullcontext():
            await until(
                lambda: all(load.admitted(node=number, degraded=True) >= 200 for number in NODES), "use without Redis"
            )
        for node in nodes:
            await node.runtime.freshness.wait()  # what a store that lost its state is seeded from has all of it
            await node.runtime.usage.flush()
        if fault != "stall":
            await asyncio.to_thread(redis_server.heal)
        healing = len(load.answers)
        await until(lambda: load.seen(healing, degraded=False) == NODES, "both nodes to ask Redis again")

    assert_decided(load, "quota_exceeded")
    used = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while used != load.admitted():
                await asyncio.sleep(0.05)
                used = await used_of(nodes[0], tenant, secret)
    assert used == load.admitted()
    runtime = nodes[0].runtime
    reconciler = Reconciler(runtime.database, runtime.snapshot, runtime.store, runtime.clock)
    assert [await reconciler.step(heal=False) for _ in range(LOOKS + 1)] == [[]] * (LOOKS + 1)  # and it stays so
    assert [await used_of(node, tenant, secret) for node in nodes] == [load.admitted()] * len(nodes)


@pytest.mark.parametrize(
    ("on_store_failure", "allowed", "code"),
    [(OnStoreFailure.ALLOW, True, "ok"), (OnStoreFailure.DENY, False, "store_unavailable")],
)
async def test_a_limit_that_allows_or_denies_does_so_and_says_so(
    nodes: list[Node], redis_server: RedisServer, on_store_failure: OnStoreFailure, allowed: bool, code: str
) -> None:
    limit = Limit(id="", name="one", algorithm=SlidingWindow(1, DAYS_US), on_store_failure=on_store_failure)
    tenant, secret = await new_key(nodes, limit)
    assert (await tenant.check(api_key=secret, method="GET"))["code"] == "ok"
    await take_away(redis_server, "kill")
    for node in [*nodes, *nodes]:
        answer = await asking(node, tenant).check(api_key=secret, method="GET")
        assert (answer["allowed"], answer["code"], answer["degraded"]) == (allowed, code, True)
        assert answer["headers"]["X-APIShield-Degraded"] == "true"


async def test_a_reset_that_redis_did_not_answer_is_in_the_audit_log_and_one_that_was_not_sent_is_not(
    nodes: list[Node], redis_server: RedisServer
) -> None:
    tenant, secret = await new_key(nodes, Limit(id="", name="one", algorithm=FixedWindow(1, DAYS_US)))
    runtime = nodes[0].runtime
    view = runtime.snapshot.tenant(tenant.id)
    assert view is not None
    (key_id,) = (entry.key.id for entry in view.keys.values() if entry.key.rate_limits)
    key = await runtime.keys.get(tenant.owner, key_id)

    async def actions() -> list[str]:
        async with runtime.database.read() as tx:
            return [entry.action async for _, entry in tx.audit.walk(tenant.id) if entry and entry.target == key_id]

    before = await actions()
    assert (await tenant.check(api_key=secret, method="GET"))[
        "code"
    ] == "ok"  # so that there is a connection to send it on
    await take_away(redis_server, "stop")
    with pytest.raises(NoAnswer):
        await runtime.usage.reset(tenant.owner, key)
    ordered = [*before, "key.limits_reset", "key.limits_reset_unanswered"]
    assert await actions() == ordered
    while not store_of(nodes[0]).is_degraded:
        await tenant.check(api_key=secret, method="GET")
    with pytest.raises(StoreUnavailable):
        await runtime.usage.reset(tenant.owner, key)
    assert await actions() == ordered


async def test_a_node_that_stops_while_redis_is_gone_leaves_its_use_of_quotas_behind(
    tmp_path: Path, postgres_url: str, redis_url: str, redis_server: RedisServer
) -> None:
    clock = ManualClock(time.time_ns() // 1000)
    async with running_node(tmp_path / "old", clock, database_url=postgres_url, redis_url=redis_url) as node:
        tenant, secret = await new_key([node], Limit(id="", name="monthly", algorithm=Quota(QUOTA)))
        assert (await tenant.check(api_key=secret, method="GET", cost=30))["allowed"]
        await take_away(redis_server, "kill")
        assert (await tenant.check(api_key=secret, method="GET", cost=12))["degraded"]
    await asyncio.to_thread(redis_server.heal)
    async with running_node(tmp_path / "new", clock, database_url=postgres_url, redis_url=redis_url) as node:
        answer = await asking(node, tenant).check(api_key=secret, method="GET", cost=0)
        assert QUOTA - answer["limits"][0]["remaining"] == 30 + 12
