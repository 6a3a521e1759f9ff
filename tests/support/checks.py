"""What tests of checks share: a node with a tenant, and keys for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from apishield.core.model import SECOND_US, Limit, SlidingWindow
from apishield.services.key_drafts import KeyDraft
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, running_node

MINUTE_US = 60 * SECOND_US


@pytest_asyncio.fixture
async def node(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Node]:
    """A node on SQLite and memory."""
    async with running_node(tmp_path, clock) as running:
        yield running


@pytest_asyncio.fixture
async def tenant(node: Node) -> Tenant:
    """A tenant of ``node``."""
    return await node.tenant()


def sliding(requests: int, name: str = "default", window_us: int = MINUTE_US, **more: Any) -> Limit:
    """A sliding window, by default of a minute."""
    return Limit(id="", name=name, algorithm=SlidingWindow(requests, window_us), **more)


async def make_key(tenant: Tenant, **draft: Any) -> tuple[str, str]:
    """A caller's key: its id and its secret."""
    draft = {"name": "k", "scopes": ("read", "write"), **draft}
    key, secret = await tenant.node.runtime.keys.create(tenant.owner, KeyDraft(**draft))
    return key.id, secret
