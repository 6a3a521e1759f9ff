"""Two nodes that share a database and a Redis, and callers that never stop asking them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest_asyncio

from tests.faults.load import until
from tests.support.clock import ManualClock
from tests.support.node import Node, running_node

NODES = 2


@pytest_asyncio.fixture
async def nodes(tmp_path: Path, postgres_url: str, redis_url: str) -> AsyncIterator[list[Node]]:
    """Two nodes that run, and know of each other. Their clock stands still in the month that Redis is in."""
    clock = ManualClock(time.time_ns() // 1000)
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(
                running_node(tmp_path / str(number), clock, database_url=postgres_url, redis_url=redis_url)
            )
            for number in range(NODES)
        ]
        for node in running:
            await node.runtime.start()
        await until(lambda: all(node.runtime.live_nodes == NODES for node in running), "both nodes to know of both")
        yield running
