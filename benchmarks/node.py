"""A node in the benchmark's own process: real snapshot, engine and data plane on memory, without a server around it."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from apishield.api.dataplane.answers import Answer, Question
from apishield.api.dataplane.app import DataPlane
from apishield.api.dataplane.headers import Headers
from apishield.bootstrap import Runtime, build, prepare
from apishield.core.model import Limit
from apishield.core.ports import Clock
from apishield.core.records import Actor, Role
from apishield.services.key_drafts import KeyDraft
from apishield.settings import Settings

CHECKS_A_TURN = 64
OPERATOR = Actor(id="operator", role=Role.OPERATOR, tenant_id=None)


class BenchNode:
    """A runtime with one tenant; ``ask`` takes the headers and body of a request to ``/v1/check``."""

    def __init__(self, runtime: Runtime, tenant_id: str, service_key: str, owner: Actor) -> None:
        self.runtime = runtime
        self.tenant_id = tenant_id
        self.owner = owner
        self.data_plane = DataPlane(runtime, _nothing)
        self._check = self.data_plane.direct[b"POST", b"/v1/check"]
        self.headers: Headers = [
            (b"host", b"127.0.0.1:8000"),
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + service_key.encode()),
            (b"content-length", b"120"),
        ]

    def ask(self, body: bytes) -> Answer | Awaitable[Answer]:
        """Decides one check, from its bytes to the bytes of its answer."""
        answered = self._check(self.headers, body)
        if isinstance(answered, Question):
            (answered,) = self.data_plane.answer_all([answered])
        return answered

    def turns(self) -> Callable[[], None]:
        """To be called after each check: each 64th ends a turn, whose events are then written to the spool with one write."""
        checks, write = itertools.count(1), self.runtime.events.flush

        def over() -> None:
            if next(checks) % CHECKS_A_TURN == 0:
                write()

        return over

    async def warm_up(self, body: bytes) -> None:
        """Lets the data plane learn who asks."""
        answer: Any = self.ask(body)
        if not isinstance(answer, Answer):
            answer = await answer
        assert json.loads(answer.body)["code"] in ("ok", "rate_limited"), answer.body

    async def key(self, limits: tuple[Limit, ...], quotas: tuple[Limit, ...] = ()) -> str:
        """A caller's key with these limits."""
        draft = KeyDraft(name="bench", scopes=("read",), rate_limits=limits, quotas=quotas)
        _, secret = await self.runtime.keys.create(self.owner, draft)
        await self.runtime.snapshot.load()
        return secret


@asynccontextmanager
async def bench_node(clock: Clock) -> AsyncIterator[BenchNode]:
    """A node on SQLite and memory, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="apishield-bench-") as directory:
        settings = Settings(data_dir=Path(directory), log_level="error")
        await prepare(settings, clock=clock)
        runtime = await build(settings, clock=clock)
        created = await runtime.tenants.create(OPERATOR, name="bench")
        await runtime.snapshot.load()
        owner = Actor(id=created.token.id, role=Role.OWNER, tenant_id=created.tenant.id)
        try:
            yield BenchNode(runtime, created.tenant.id, created.key_secret, owner)
        finally:
            await runtime.close()


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("a benchmark asks the data plane only")
