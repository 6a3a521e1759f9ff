"""The data plane as a small real HTTP server that a test steers: what it decides, when it is slow, when it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

Scope = dict[str, Any]


def allowed(**fields: Any) -> dict[str, Any]:
    """A decision that lets through, as the service writes it."""
    return {
        "allowed": True,
        "code": "ok",
        "status": 200,
        "message": "",
        "decision_id": "dec_0000000000000000000000000000000000000000",
        "tenant_id": "ten_1",
        "key": None,
        "limits": [],
        "shadow": [],
        "retry_after": None,
        "headers": {
            "RateLimit-Policy": '"default";q=100;w=60',
            "RateLimit": '"default";r=99;t=60',
            "X-RateLimit-Limit": "100",
            "X-RateLimit-Remaining": "99",
            "X-RateLimit-Reset": "1795000060",
            "X-APIShield-Decision": "dec_0000000000000000000000000000000000000000",
        },
        "degraded": False,
    } | fields


def refused(code: str, status: int, **headers: str) -> dict[str, Any]:
    """A decision that refuses."""
    decision = allowed(allowed=False, code=code, status=status, message=f"Because of {code}.")
    return decision | {"headers": decision["headers"] | headers}


class FakeService:
    """Records what it is asked, and answers what ``decide`` says."""

    def __init__(self) -> None:
        self.url = ""
        self.decide: Callable[[dict[str, Any]], dict[str, Any]] = lambda check: allowed()
        self.checks: list[dict[str, Any]] = []
        self.requests: list[tuple[str, int]] = []  # paths, and how many items each carried
        self.reports: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.clients: set[Any] = set()  # one connection each
        self.fails_with: tuple[int, dict[str, Any]] | None = None
        self.answering = asyncio.Event()
        self.answering.set()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.clients.add(scope["client"])
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        status, answer = self._answer(scope["path"], json.loads(body) if body else {})
        await self.answering.wait()
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        items = body.get("checks") or body.get("events") or [body]
        self.requests.append((path, len(items)))
        if self.fails_with is not None:
            return self.fails_with
        match path:
            case "/v1/check":
                self.checks.append(body)
                return 200, self.decide(body)
            case "/v1/check/batch":
                self.checks += items
                return 200, {"results": [self.decide(check) for check in items]}
            case "/v1/report":
                self.reports += items
                return 202, {"accepted": len(items), "duplicates": 0, "rejected": []}
        return 404, {"status": 404, "code": "not_found", "title": "There is no such thing", "detail": path}


@asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[str]:
    """Serves an ASGI app over HTTP in the running loop; gives its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off", proxy_headers=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()  # without its main loop, which only watches for signals
    try:
        bound = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{bound}"
    finally:
        server.force_exit = True
        await server.shutdown()
