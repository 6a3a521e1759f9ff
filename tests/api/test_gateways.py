"""Gateways get the same verdict as ``POST /v1/check``, in a form that each understands."""

from __future__ import annotations

import httpx2
import pytest
import pytest_asyncio

from apishield.core.model import SECOND_US, Limit, SlidingWindow
from apishield.services.blocks import BlockDraft
from apishield.services.key_drafts import KeyDraft
from tests.support.node import Tenant


@pytest_asyncio.fixture
async def key(tenant: Tenant) -> str:
    limit = Limit(id="", name="default", algorithm=SlidingWindow(2, 60 * SECOND_US))
    draft = KeyDraft(name="k", scopes=("read",), rate_limits=(limit,))
    return (await tenant.node.runtime.keys.create(tenant.owner, draft))[1]


async def _nginx(tenant: Tenant, **headers: str) -> httpx2.Response:
    original = {"X-Original-Method": "GET", "X-Original-URI": "/orders?page=2", "X-APIShield-Client-IP": "203.0.113.7"}
    sent = {"X-APIShield-Token": tenant.service_key, **original, **headers}
    return await tenant.node.client.get(
        "/gateway/nginx", headers={name: value for name, value in sent.items() if value}
    )


async def _envoy(tenant: Tenant, path: str = "/orders?page=2", method: str = "GET", **headers: str) -> httpx2.Response:
    sent = {"X-APIShield-Token": tenant.service_key, "X-APIShield-Client-IP": "203.0.113.7", **headers}
    return await tenant.node.client.request(method, f"/gateway/envoy{path}", headers=sent)


async def test_both_admit_with_the_headers_of_the_check(tenant: Tenant, key: str) -> None:
    by_nginx = await _nginx(tenant, **{"X-API-Key": key})
    by_envoy = await _envoy(tenant, Authorization=f"Bearer {key}")
    by_check = await tenant.check(api_key=key, method="GET", path="/orders", cost=0)
    for answer, remaining in ((by_nginx, 1), (by_envoy, 0)):
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["RateLimit"] == f'"default";r={remaining};t=60'
        for name in ("RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Reset"):
            assert answer.headers[name] == by_check["headers"][name]
        assert answer.headers["X-APIShield-Decision"].startswith("dec_")
    assert by_nginx.headers["X-APIShield-Status"] == "200"


async def test_nginx_gets_403_and_the_true_status_beside_it(tenant: Tenant, key: str) -> None:
    for _ in range(3):
        answer = await _nginx(tenant, **{"X-API-Key": key})
    assert answer.status_code == 403
    assert answer.headers["X-APIShield-Status"] == "429"
    assert answer.headers["Retry-After"] == "60"


async def test_envoy_gets_the_answer_as_the_client_shall_see_it(tenant: Tenant, key: str) -> None:
    for _ in range(3):
        answer = await _envoy(tenant, **{"X-API-Key": key})
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "60"
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert (body["code"], body["status"], body["instance"]) == ("rate_limited", 429, "/orders")
    assert body["decision_id"] == answer.headers["X-APIShield-Decision"]


@pytest.mark.parametrize(
    ("headers", "status", "true_status"),
    [
        ({"X-API-Key": "sk_live_wrong"}, 401, 401),
        ({"Authorization": "Bearer sk_live_wrong"}, 401, 401),
        ({"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x"}, 200, 200),  # the app's own token is no key of ours
        ({"X-Original-URI": "/a/../b"}, 403, 400),
        ({"X-Original-URI": "/a%2fb"}, 403, 400),
        ({"X-APIShield-Client-IP": "nonsense"}, 403, 400),
        ({"X-APIShield-Client-IP": ""}, 200, 200),  # no address: the steps that need one are skipped
    ],
)
async def test_nginx_understands_every_answer(
    tenant: Tenant, headers: dict[str, str], status: int, true_status: int
) -> None:
    answer = await _nginx(tenant, **headers)
    assert answer.status_code == status
    assert answer.headers["X-APIShield-Status"] == str(true_status)


async def test_a_blocked_address_is_refused_by_both(tenant: Tenant) -> None:
    await tenant.node.runtime.blocks.create(tenant.owner, BlockDraft(kind="ip", value="203.0.113.7"))
    assert (await _nginx(tenant)).headers["X-APIShield-Status"] == "403"
    assert (await _envoy(tenant)).status_code == 403


async def test_scopes_follow_the_original_method(tenant: Tenant, key: str) -> None:
    written = await _nginx(tenant, **{"X-API-Key": key, "X-Original-Method": "POST"})
    assert written.headers["X-APIShield-Status"] == "403"
    assert (await _envoy(tenant, method="DELETE", **{"X-API-Key": key})).json()["code"] == "scope_missing"


@pytest.mark.parametrize("token", ["", "nonsense", "sk_live_000000000000000000000000000000000000"])
async def test_a_gateway_that_asks_wrongly_lets_nobody_in_and_blames_no_client(tenant: Tenant, token: str) -> None:
    by_nginx = await _nginx(tenant, **{"X-APIShield-Token": token})
    assert (by_nginx.status_code, by_nginx.headers["X-APIShield-Status"]) == (403, "503")
    assert (await _envoy(tenant, **{"X-APIShield-Token": token})).status_code == 503


async def test_what_a_client_doubles_is_not_believed(tenant: Tenant) -> None:
    headers = [
        ("X-APIShield-Token", tenant.service_key),
        ("X-Original-Method", "GET"),
        ("X-Original-URI", "/"),
        ("X-APIShield-Client-IP", "203.0.113.7"),
        ("X-APIShield-Client-IP", "10.0.0.1"),
    ]
    answer = await tenant.node.client.get("/gateway/nginx", headers=headers)
    assert (answer.status_code, answer.headers["X-APIShield-Status"]) == (403, "503")
