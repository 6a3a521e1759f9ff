"""One path under many spellings: each is the route with all its checks, or nothing at all; never a way around them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.support import Service, Tenant

SPELLINGS = [
    "/v1/keys/",
    "/v1//keys",
    "//v1/keys",
    "/v1/./keys",
    "/v1/x/../keys",
    "/v1/keys/..",
    "/v1/keys/.",
    "/V1/keys",
    "/v1/KEYS",
    "/v1/%6beys",
    "/v1/%6Beys",
    "/%76%31/keys",
    "/v1%2Fkeys",
    "/v1%2fkeys",
    "/v1/keys%2F",
    "/v1/keys%00",
    "/v1/keys%20",
    "/v1/keys;a=b",
    "/v1/keys%3Bx",
    "/v1/keys%3F",
    "/v1/keys%23",
    "/v1\\keys",
    "/v1/keys%5c",
    "/v1/keys%0d%0a",
    "/v1/k%C3%A9ys",
    "/v1/keys.json",
    "/v1/%ff%fe",
    "/v1/keys/%2e%2e/tenant",
    "/docs/../v1/keys",
    "/docs/%2e%2e/v1/keys",
    "/openapi.json/../v1/keys",
]


async def _raw(service: Service, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Asks for ``path`` byte for byte, decoded once as a server does; a client would tidy it first."""
    from urllib.parse import unquote

    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), *((k.lower().encode(), v.encode()) for k, v in headers.items())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    await service.app(scope, receive, send)
    status = next(message["status"] for message in sent if message["type"] == "http.response.start")
    return status, b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("path", SPELLINGS)
async def test_no_spelling_of_a_path_leads_around_the_token(service: Service, alice: Tenant, path: str) -> None:
    await alice.key(name="secret-name")
    status, body = await _raw(service, path, {})
    assert status in {400, 401, 404}
    assert b"secret-name" not in body


@pytest.mark.parametrize("path", SPELLINGS)
async def test_a_spelling_is_the_route_itself_or_nothing(
    service: Service, alice: Tenant, bob: Tenant, path: str
) -> None:
    await alice.key(name="alices-own")
    status, body = await _raw(service, path, bob.headers)
    assert status in {200, 400, 404}  # never a redirect, never a failure
    assert b"alices-own" not in body
