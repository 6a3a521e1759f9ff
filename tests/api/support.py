"""A whole node for tests of its HTTP: real database, real counters, the bytes as a server gets them, time that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from starlette.types import ASGIApp

from apishield.api.asgi import create_asgi
from apishield.bootstrap import Runtime, build, prepare
from apishield.core.key_manager.format import SecretKind, make_secret
from apishield.settings import Settings
from tests.support.clock import ManualClock

OPERATOR_TOKEN = make_secret(SecretKind.OPERATOR_TOKEN, lambda length: bytes(range(length)))
SECRET = "1:" + "c2VjcmV0" * 8

Json = dict[str, Any]


class Caller:
    """Somebody who asks, with the same credential each time."""

    def __init__(self, client: httpx2.AsyncClient, token: str | None = None, **headers: str) -> None:
        self.client = client
        self.token = token
        self.headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **headers}

    async def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """Sends one request; ``body`` goes as JSON, bytes as they are."""
        sent = {**self.headers, **(headers or {})}
        if isinstance(body, bytes):
            return await self.client.request(
                method, path, content=body, headers={"Content-Type": "application/json", **sent}
            )
        return await self.client.request(method, path, json=body, headers=sent)

    async def ok(
        self, method: str, path: str, body: Any = None, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Sends one request that must succeed; returns the decoded answer."""
        response = await self.ask(method, path, body, headers=headers)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def problem(
        self,
        status: int,
        code: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """Sends one request that must be refused so; returns the problem, whose shape is checked."""
        response = await self.ask(method, path, body, headers=headers)
        return problem_of(response, status, code)

    def acting(self, **headers: str) -> Caller:
        """The same, with more headers."""
        return Caller(self.client, self.token, **headers)


def problem_of(response: httpx2.Response, status: int, code: str) -> Json:
    """The problem document of ``response``, which must have this status and code."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: Json = response.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["type"].endswith(f"/docs/errors/{code}.md")
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    return problem


class Tenant(Caller):
    """A tenant's owner, and what signing up gave."""

    def __init__(self, client: httpx2.AsyncClient, made: Json) -> None:
        super().__init__(client, made["token"])
        self.secret: str = made["token"]
        self.id: str = made["id"]
        self.token_id: str = made["token_id"]
        self.service_key: str = made["api_key"]["key"]
        self.service_key_id: str = made["api_key"]["id"]

    async def viewer(self) -> Caller:
        """Somebody who may only look."""
        made = await self.ok("POST", "/v1/tokens", {"name": "Viewer", "role": "viewer"}, status=201)
        return Caller(self.client, made["token"])

    async def key(self, **fields: Any) -> Json:
        """A new caller's key."""
        made: Json = await self.ok("POST", "/v1/keys", {"name": "Key", **fields}, status=201)
        return made


class Service:
    """A node and who asks it."""

    def __init__(self, runtime: Runtime, app: ASGIApp, clock: ManualClock) -> None:
        self.runtime = runtime
        self.app = app
        self.clock = clock
        self.client = self.client_at("http://localhost:8000")
        self.nobody = Caller(self.client)
        self.operator = Caller(self.client, OPERATOR_TOKEN)

    def client_at(self, base_url: str, address: str = "127.0.0.1") -> httpx2.AsyncClient:
        """A client at ``address`` that names the service as ``base_url`` does."""
        transport = httpx2.ASGITransport(app=self.app, client=(address, 50_000))
        return httpx2.AsyncClient(transport=transport, base_url=base_url)

    async def tenant(self, name: str = "Test") -> Tenant:
        """A new tenant."""
        made = await self.operator.ok("POST", "/v1/tenants", {"name": name}, status=201)
        return Tenant(self.client, made)

    async def later(self, seconds: float) -> None:
        """Lets time pass for a node that keeps up with its database."""
        self.clock.advance(seconds)
        await self.runtime.snapshot.catch_up()

    def document(self) -> Json:
        """The OpenAPI document."""
        document: Json = self.control_plane.openapi()
        return document

    @property
    def control_plane(self) -> Any:
        """The FastAPI application behind the data plane."""
        return self.app._control_plane  # type: ignore[attr-defined]


@asynccontextmanager
async def serving(data_dir: Path, clock: ManualClock, **settings: Any) -> AsyncIterator[Service]:
    """A node on SQLite and memory, without its loops."""
    fixed = {"data_dir": data_dir, "secret": SECRET, "operator_token": OPERATOR_TOKEN, "ledger": "inline"}
    made = Settings(**{**fixed, **settings})
    await prepare(made, clock=clock)
    runtime = await build(made, clock=clock)
    await runtime.snapshot.load()
    service = Service(runtime, create_asgi(runtime), clock)
    try:
        yield service
    finally:
        await service.client.aclose()
        await runtime.close()
