"""A node and two tenants for every test of its HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.api.support import Service, Tenant, serving
from tests.support.checks import node, tenant
from tests.support.clock import ManualClock

__all__ = ["alice", "bob", "node", "service", "tenant"]


@pytest_asyncio.fixture
async def service(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Service]:
    """A node on a loopback address."""
    async with serving(tmp_path, clock) as running:
        yield running


@pytest_asyncio.fixture
async def alice(service: Service) -> Tenant:
    """A tenant's owner."""
    return await service.tenant("Alice's")


@pytest_asyncio.fixture
async def bob(service: Service) -> Tenant:
    """Another tenant's owner."""
    return await service.tenant("Bob's")
