"""Callers that ask all nodes without a pause, and what they were answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from msgspec.structs import replace

from apishield.core.model import Limit, Quota
from apishield.services.key_drafts import KeyDraft
from apishield.stores.failover import FailoverStore
from tests.support.node import Node, Tenant

CALLERS_A_NODE = 8
PATIENCE_SECONDS = 60  # how long a test waits before it calls a thing lost, not how long the thing may take


@dataclass(frozen=True)
class Answer:
    """One answer of a node, by its number."""

    node: int
    http_status: int
    allowed: bool
    code: str
    degraded: bool


@dataclass
class Load:
    """What all callers were answered so far."""

    answers: list[Answer] = field(default_factory=list)

    def admitted(self, *, node: int | None = None, degraded: bool | None = None) -> int:
        """How many checks were let through, of one node or all, with Redis or without it."""
        return sum(
            answer.allowed and node in (None, answer.node) and degraded in (None, answer.degraded)
            for answer in self.answers
        )

    def seen(self, since: int, *, degraded: bool | None = None, allowed: bool | None = None) -> set[int]:
        """The nodes that gave such an answer since there were ``since`` of them."""
        return {
            answer.node
            for answer in self.answers[since:]
            if degraded in (None, answer.degraded) and allowed in (None, answer.allowed)
        }


def store_of(node: Node) -> FailoverStore:
    """A node's store of counters."""
    store = node.runtime.store
    assert isinstance(store, FailoverStore)
    return store


async def new_key(nodes: list[Node], limit: Limit) -> tuple[Tenant, str]:
    """A key with this one limit: its tenant and its secret."""
    tenant = await nodes[0].tenant()
    where = "quotas" if isinstance(limit.algorithm, Quota) else "rate_limits"
    draft = replace(KeyDraft(name="k", scopes=("read",)), **{where: (limit,)})
    _, secret = await tenant.node.runtime.keys.create(tenant.owner, draft)
    for node in nodes:
        await node.runtime.snapshot.catch_up()
    return tenant, secret


def asking(node: Node, tenant: Tenant) -> Tenant:
    """The same tenant, asking this node."""
    other = Tenant.__new__(Tenant)
    other.__dict__ = {**tenant.__dict__, "node": node}
    return other


@asynccontextmanager
async def under_load(nodes: list[Node], tenant: Tenant, secret: str) -> AsyncIterator[Load]:
    """Asks until the block ends, whatever is answered; an exception of a caller is one of the block."""
    load, is_over = Load(), asyncio.Event()

    async def caller(number: int, tenant: Tenant) -> None:
        while not is_over.is_set():
            response = await tenant.post("/v1/check", {"api_key": secret, "method": "GET"})
            decision = response.json()
            load.answers.append(
                Answer(
                    number,
                    response.status_code,
                    bool(decision.get("allowed")),
                    str(decision.get("code")),
                    bool(decision.get("degraded")),
                )
            )
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as callers:
        for number, node in enumerate(nodes):
            for _ in range(CALLERS_A_NODE):
                callers.create_task(caller(number, asking(node, tenant)))
        try:
            yield load
        finally:
            is_over.set()


async def until(true: Callable[[], bool], what: str) -> None:
    """Waits for what processes do, whose time no test owns."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not true():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {PATIENCE_SECONDS} s for {what}") from None
