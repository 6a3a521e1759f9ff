"""A whole node in the test's own process and under its clock: real database, real stores, the data plane's real bytes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import httpx2
from starlette.types import Receive, Scope, Send

from apishield.api.dataplane.app import DataPlane
from apishield.bootstrap import Runtime, build, prepare
from apishield.core.records import Actor, Role
from apishield.services.tenants import TenantCreated
from apishield.settings import Settings
from tests.support.clock import ManualClock

OPERATOR = Actor(id="operator", role=Role.OPERATOR, tenant_id=None)


async def _no_control_plane(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Node:
    """A built runtime, loaded but without its loops: tests say when it catches up and flushes."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        transport = httpx2.ASGITransport(app=DataPlane(runtime, _no_control_plane))
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000")

    async def tenant(self, name: str = "Test") -> Tenant:
        """A new tenant."""
        return Tenant(self, await self.runtime.tenants.create(OPERATOR, name=name))


class Tenant:
    """A tenant of a node, with what asks in its name."""

    def __init__(self, node: Node, created: TenantCreated) -> None:
        self.node = node
        self.id = created.tenant.id
        self.token = created.token_secret
        self.service_key = created.key_secret
        self.owner = Actor(id=created.token.id, role=Role.OWNER, tenant_id=self.id)

    def on(self, node: Node) -> Tenant:
        """The same tenant, asking another node."""
        elsewhere = copy(self)
        elsewhere.node = node
        return elsewhere

    async def post(self, path: str, body: Any, credential: str | None = None, **headers: str) -> httpx2.Response:
        """Sends ``body`` (bytes as they are, anything else as JSON) to the data plane."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.node.client.post(
            path,
            content=content,
            headers={
                "Authorization": f"Bearer {credential or self.service_key}",
                "Content-Type": "application/json",
                **headers,
            },
        )

    async def check(self, **question: Any) -> dict[str, Any]:
        """Asks one check and returns the decision."""
        response = await self.post("/v1/check", question)
        assert response.status_code == 200, response.text
        decision: dict[str, Any] = response.json()
        return decision


@asynccontextmanager
async def running_node(
    data_dir: Path,
    clock: ManualClock,
    *,
    database_url: str | None = None,
    redis_url: str | None = None,
    secret: str = "1:" + "c2VjcmV0" * 8,
    **more: Any,
) -> AsyncIterator[Node]:
    """A node on SQLite and memory, or on what the URLs name; ``more`` are settings. Closing it flushes, as a shutdown does."""
    settings = Settings(
        data_dir=data_dir,
        database_url=database_url,
        redis_url=redis_url,
        secret=secret,
        # Loaded machines are slow; what fails over has its own tests.
        **{"ledger": "inline", "redis_timeout_ms": 1000 if os.environ.get("CI") else 250, **more},
    )
    await prepare(settings, clock=clock)
    runtime = await build(settings, clock=clock)
    await runtime.snapshot.load()
    node = Node(runtime)
    try:
        yield node
    finally:
        await node.client.aclose()
        await runtime.close()


@contextmanager
def node_beside(data_dir: Path, clock: ManualClock) -> Iterator[tuple[asyncio.Runner, Node]]:
    """A node for tests that are no coroutines, with what runs its coroutines."""
    with asyncio.Runner() as runner:
        entered = running_node(data_dir, clock)
        node = runner.run(entered.__aenter__())
        yield runner, node
        runner.run(entered.__aexit__(None, None, None))
