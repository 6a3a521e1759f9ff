"""A primary that Sentinel replaces: checks go on meanwhile, then with the new primary and what it knows, by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from apishield.core.counter_keys import counter_key
from apishield.core.model import SECOND_US, Counter, Limit, SlidingWindow, Verdict
from apishield.errors import StoreUnavailable
from apishield.stores.redis import RedisStore
from tests.faults.load import CALLERS_A_NODE, new_key, store_of, under_load, until
from tests.support.node import Node
from tests.support.processes import Reaper
from tests.support.redis_sentinel import Replicated, replicated_redis

LIMIT = 200
NODES = {0, 1}
CALLERS = len(NODES) * CALLERS_A_NODE  # whose answers may have been on their way
SHARE = LIMIT // len(NODES)
HOUR_US = 3600 * SECOND_US
WINDOW = Limit(id="lim_1", name="x", algorithm=SlidingWindow(LIMIT, HOUR_US))


@pytest.fixture
def replicated(reaper: Reaper, request: pytest.FixtureRequest) -> Iterator[Replicated]:
    """A primary, a replica and a sentinel."""
    request.getfixturevalue("redis_server")  # says what is missing where Redis is not installed
    with replicated_redis(reaper) as replicated:
        yield replicated


@pytest.fixture
def redis_url(replicated: Replicated) -> str:
    """What the nodes are told."""
    return replicated.url


async def test_nodes_go_on_with_the_new_primary_and_what_was_used_stays_used(
    nodes: list[Node], replicated: Replicated
) -> None:
    tenant, secret = await new_key(nodes, WINDOW)
    async with under_load(nodes, tenant, secret) as before:
        await until(lambda: before.admitted() >= LIMIT // 2, "half the limit to be used")
    await asyncio.to_thread(replicated.wait_for_replica)
    await asyncio.to_thread(replicated.primary.kill)
    async with under_load(nodes, tenant, secret) as load:
        await until(lambda: all(store_of(node).is_degraded for node in nodes), "both nodes to miss the primary")
        await until(lambda: not any(store_of(node).is_degraded for node in nodes), "both to ask the new one")
        healed = len(load.answers)
        await until(lambda: load.seen(healed + CALLERS, allowed=False) == NODES, "the new one to refuse")

    assert {answer.http_status for answer in before.answers + load.answers} == {200}
    assert {answer.code for answer in load.answers if not answer.allowed} == {"rate_limited"}
    # The new primary may not have heard all that the old one counted, and the decisions say so for a window.
    assert load.seen(healed + CALLERS, degraded=False) == set()
    assert before.admitted() + load.admitted() <= LIMIT + len(NODES) * SHARE
    assert not any(store_of(node).is_degraded for node in nodes)


async def test_a_primary_that_was_made_a_replica_is_left_for_the_new_one(replicated: Replicated) -> None:
    store = RedisStore(replicated.url, timeout_ms=10_000)
    window = Counter(counter_key("ten_1", "live", WINDOW, {"key": "key_1"}), WINDOW)

    async def remaining() -> int:
        verdict = store.decide([window], [1])
        return (verdict if isinstance(verdict, Verdict) else await verdict).outcomes[0].remaining

    assert await remaining() == LIMIT - 1
    await asyncio.to_thread(replicated.wait_for_replica)
    await asyncio.to_thread(replicated.hand_over)
    with pytest.raises(StoreUnavailable, match="READONLY"):  # its connection is still up
        await remaining()
    assert await remaining() == LIMIT - 2
    await store.close()
