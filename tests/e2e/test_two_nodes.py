"""Two nodes on one PostgreSQL and one Redis are one service: exact together, and of one mind within a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
import redis.asyncio

from apishield.core.model import SECOND_US, FixedWindow, Limit, Quota, SlidingWindow, TokenBucket
from apishield.services.blocks import BlockDraft
from apishield.services.key_drafts import KeyChanges, KeyDraft
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, running_node

HOUR_US = 3600 * SECOND_US
PATIENCE_SECONDS = 20  # how long a test waits before it calls a thing lost, not how long the thing may take


@pytest_asyncio.fixture
async def nodes(tmp_path: Path, clock: ManualClock, postgres_url: str, redis_url: str) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(
                running_node(tmp_path / str(number), clock, database_url=postgres_url, redis_url=redis_url)
            )
            for number in range(2)
        ]
        for node in running:
            await node.runtime.start()
        yield running


@pytest_asyncio.fixture
async def tenant(nodes: list[Node]) -> Tenant:
    return await nodes[0].tenant()


async def _until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await true():
            await asyncio.sleep(0.01)


def _on(node: Node, tenant: Tenant) -> Tenant:
    """The same tenant, asking another node."""
    other = Tenant.__new__(Tenant)
    other.__dict__ = {**tenant.__dict__, "node": node}
    return other


@pytest.mark.parametrize(
    "limit",
    [
        Limit(id="", name="a", algorithm=FixedWindow(50, HOUR_US)),
        Limit(id="", name="a", algorithm=SlidingWindow(50, HOUR_US)),
        Limit(id="", name="a", algorithm=TokenBucket(1, HOUR_US, 50)),
    ],
    ids=["fixed_window", "sliding_window", "token_bucket"],
)
async def test_together_they_admit_exactly_the_limit(nodes: list[Node], tenant: Tenant, limit: Limit) -> None:
    _, secret = await tenant.node.runtime.keys.create(
        tenant.owner, KeyDraft(name="k", scopes=("read",), rate_limits=(limit,))
    )
    asking = [_on(node, tenant) for node in nodes]
    answers = await asyncio.gather(*(asking[n % 2].check(api_key=secret, method="GET") for n in range(160)))
    assert sum(answer["allowed"] for answer in answers) == 50
    assert not any(answer["degraded"] for answer in answers)


async def test_a_quota_is_one_on_both_nodes_and_outlives_redis(
    nodes: list[Node], tenant: Tenant, redis_url: str
) -> None:
    quota = Limit(id="", name="monthly", algorithm=Quota(10))
    _, secret = await tenant.node.runtime.keys.create(tenant.owner, KeyDraft(name="k", quotas=(quota,)))
    asking = [_on(node, tenant) for node in nodes]
    for number in range(6):
        assert (await asking[number % 2].check(api_key=secret))["allowed"]
    for node in nodes:
        await node.runtime.usage.flush()

    async with redis.asyncio.from_url(redis_url) as client:
        await client.flushdb()
    answers = [await asking[number % 2].check(api_key=secret) for number in range(6)]
    assert sum(answer["allowed"] for answer in answers) == 4
    assert answers[-1]["code"] == "quota_exceeded"


async def test_a_key_made_on_one_node_works_on_the_other_at_once(nodes: list[Node], tenant: Tenant) -> None:
    other = _on(nodes[1], tenant)
    for _ in range(5):
        _, secret = await tenant.node.runtime.keys.create(tenant.owner, KeyDraft(name="k"))
        assert (await other.check(api_key=secret))["allowed"]


async def test_a_tenant_made_on_one_node_can_ask_the_other_at_once(nodes: list[Node]) -> None:
    fresh = await nodes[0].tenant("Fresh")
    assert (await _on(nodes[1], fresh).check(method="GET"))["allowed"]


async def test_changes_act_on_the_other_node(nodes: list[Node], tenant: Tenant) -> None:
    runtime = tenant.node.runtime
    limit = Limit(id="", name="default", algorithm=SlidingWindow(1000, HOUR_US))
    key, secret = await runtime.keys.create(tenant.owner, KeyDraft(name="k", rate_limits=(limit,)))
    other = _on(nodes[1], tenant)

    async def limit_is_new() -> bool:
        return bool((await other.check(api_key=secret))["limits"][0]["limit"] == 5)

    async def is_blocked() -> bool:
        return bool((await other.check(ip="203.0.113.9"))["code"] == "blocked")

    async def is_revoked() -> bool:
        return bool((await other.check(api_key=secret))["code"] == "key_revoked")

    smaller = Limit(id="", name="default", algorithm=SlidingWindow(5, HOUR_US))
    await runtime.keys.update(tenant.owner, key.id, KeyChanges(rate_limits=(smaller,)))
    await _until(limit_is_new)
    await runtime.blocks.create(tenant.owner, BlockDraft(kind="ip", value="203.0.113.9"))
    await _until(is_blocked)
    await runtime.keys.revoke(tenant.owner, key.id)
    await _until(is_revoked)


async def test_changes_act_by_the_poll_alone_where_no_notice_comes(nodes: list[Node], tenant: Tenant) -> None:
    for node in nodes:
        assert node.runtime._notices is not None
        await node.runtime._notices.close()
    key, secret = await tenant.node.runtime.keys.create(tenant.owner, KeyDraft(name="k"))
    other = _on(nodes[1], tenant)
    assert (await other.check(api_key=secret))["allowed"]
    await tenant.node.runtime.keys.revoke(tenant.owner, key.id)

    async def is_revoked() -> bool:
        return bool((await other.check(api_key=secret))["code"] == "key_revoked")

    await _until(is_revoked)


async def test_each_node_knows_that_there_are_two(nodes: list[Node]) -> None:
    async def both_know() -> bool:
        return all(node.runtime.live_nodes == 2 for node in nodes)

    await _until(both_know)
