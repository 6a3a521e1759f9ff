"""Kinds of credential by routes, walked over the OpenAPI document, so that a new route is covered by itself."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from apishield.api import app
from apishield.api.permissions import Permission, permission_of, permit
from apishield.api.route import control_router
from tests.api.support import OPERATOR_TOKEN, Caller, Json, Service, Tenant, problem_of

IDS = {
    "tenant_id": "ten_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "token_id": "tok_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "key_id": "key_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "customer_id": "cus_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "policy_id": "pol_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "replay_id": "rpl_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "endpoint_id": "end_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "block_id": "blk_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "allow_id": "alw_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "decision_id": "dec_01k84edib9e008000100000001cgk2pu574e73g",
    "receipt_id": "dec_01k84edib9e008000100000001cgk2pu574e73g",
}

ENDLESS = {"/v1/analytics/live"}
"""Streams, which a test must end by itself; ``test_analytics_live`` does."""


def routes(service: Service) -> Iterator[tuple[str, str, Permission]]:
    """Method, path (ids filled in) and permission of every route of the control plane."""
    for route in service.control_plane.routes:
        permission = permission_of(route.endpoint)
        assert permission is not None
        for method in route.methods:
            yield method, route.path_format.format(**IDS, name="start.js"), permission


async def test_without_a_credential_every_route_but_the_public_ones_is_401(service: Service) -> None:
    asked = 0
    for method, path, permission in routes(service):
        if not permission.value.public:
            await service.nobody.problem(401, "token_missing", method, path)
            asked += 1
    assert asked > 30


@pytest.mark.parametrize("kind", ["service", "caller"])
async def test_an_api_key_of_any_kind_manages_nothing(service: Service, alice: Tenant, kind: str) -> None:
    secret = alice.service_key if kind == "service" else (await alice.key())["key"]
    caller = Caller(service.client, secret)
    for method, path, permission in routes(service):
        if permission is not Permission.PUBLIC:
            problem = await caller.problem(401, "token_invalid", method, path)
            assert "API key" in problem["detail"]


async def test_a_viewer_reads_and_changes_nothing(service: Service, alice: Tenant) -> None:
    viewer = await alice.viewer()
    for method, path, permission in routes(service):
        if permission is Permission.PUBLIC or path in ENDLESS:
            continue
        response = await viewer.ask(method, path)
        if method == "GET" and permission is not Permission.TENANTS_MANAGE:
            assert response.status_code in {200, 404}, (method, path, response.text)
        else:
            problem_of(response, 403, "forbidden")


async def test_an_owner_does_not_do_what_is_the_operators(service: Service, alice: Tenant) -> None:
    for method, path, permission in routes(service):
        if permission in {Permission.TENANTS_MANAGE, Permission.SIGN_UP}:
            await alice.problem(403, "forbidden", method, path)


async def test_the_operator_must_name_the_tenant_where_the_route_is_about_one(service: Service) -> None:
    for method, path, permission in routes(service):
        if permission.value.in_tenant:
            await service.operator.problem(422, "tenant_required", method, path)


async def test_the_operator_acts_in_the_tenant_that_is_named(service: Service, alice: Tenant, bob: Tenant) -> None:
    for_alice = service.operator.acting(**{"X-APIShield-Tenant": alice.id})
    made = await for_alice.ok("POST", "/v1/keys", {"name": "By the operator"}, status=201)
    await alice.ok("GET", f"/v1/keys/{made['id']}")
    await bob.problem(404, "not_found", "GET", f"/v1/keys/{made['id']}")


@pytest.mark.parametrize("tenant", ["ten_06dnd0g2v5v7h3m8k1q0p2r4t6", "nonsense", "", "ten_\x7f", "*"])
async def test_the_operator_naming_no_tenant_that_exists_is_404(service: Service, tenant: str) -> None:
    caller = service.operator.acting(**{"X-APIShield-Tenant": tenant})
    await caller.problem(404, "not_found", "GET", "/v1/keys")


async def test_a_token_naming_another_tenant_is_404_and_naming_its_own_is_fine(alice: Tenant, bob: Tenant) -> None:
    await alice.acting(**{"X-APIShield-Tenant": bob.id}).problem(404, "not_found", "GET", "/v1/keys")
    await alice.acting(**{"X-APIShield-Tenant": alice.id}).ok("GET", "/v1/keys")


@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        ("", 401, "token_missing"),
        ("Bearer", 401, "token_missing"),
        ("Bearer ", 401, "token_missing"),
        ("Basic YWxhZGRpbjpvcGVuc2VzYW1l", 401, "token_missing"),
        ("ast_without_the_word_bearer", 401, "token_missing"),
        ("Bearer nonsense", 401, "token_invalid"),
        ("Bearer ast_" + "a" * 36, 401, "token_invalid"),
        ("Bearer " + "a" * 20_000, 401, "token_invalid"),
        ("Bearer " + OPERATOR_TOKEN[:-1] + "x", 401, "token_invalid"),
        ("Bearer " + OPERATOR_TOKEN + " x", 401, "token_invalid"),
    ],
)
async def test_a_credential_that_is_none_is_401(service: Service, authorization: str, status: int, code: str) -> None:
    response = await service.nobody.ask("GET", "/v1/tenants", headers={"Authorization": authorization})
    problem_of(response, status, code)
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_the_scheme_is_read_in_any_case(service: Service, alice: Tenant) -> None:
    response = await service.nobody.ask("GET", "/v1/keys", headers={"Authorization": f"bearer {alice.token}"})
    assert response.status_code == 200


async def test_two_authorization_headers_are_refused(service: Service, alice: Tenant, bob: Tenant) -> None:
    both = [("Authorization", f"Bearer {alice.token}"), ("Authorization", f"Bearer {bob.token}")]
    problem_of(await service.client.get("/v1/keys", headers=both), 400, "bad_request")


async def test_a_token_ends_at_its_expiry_to_the_microsecond(service: Service, alice: Tenant) -> None:
    made: Json = await alice.ok(
        "POST", "/v1/tokens", {"name": "Short", "role": "owner", "expires_at": "2026-11-18T11:16:40Z"}, status=201
    )
    short = Caller(service.client, made["token"])
    service.clock.advance(600 - 1e-6)
    await short.ok("GET", "/v1/keys")
    service.clock.advance(1e-6)
    await short.problem(401, "token_invalid", "GET", "/v1/keys")


async def test_a_revoked_token_stops_to_work_at_once(service: Service, alice: Tenant) -> None:
    made = await alice.ok("POST", "/v1/tokens", {"name": "Second", "role": "owner"}, status=201)
    second = Caller(service.client, made["token"])
    await second.ok("GET", "/v1/keys")
    await alice.ok("DELETE", f"/v1/tokens/{made['id']}", status=204)
    await second.problem(401, "token_invalid", "GET", "/v1/keys")


async def test_a_suspended_tenant_is_refused_until_the_operator_lifts_it(service: Service, alice: Tenant) -> None:
    await service.operator.ok("PATCH", f"/v1/tenants/{alice.id}", {"status": "suspended"})
    await alice.problem(403, "tenant_suspended", "GET", "/v1/keys")
    await service.operator.ok("PATCH", f"/v1/tenants/{alice.id}", {"status": "active"})
    await alice.ok("GET", "/v1/keys")


async def test_a_deleted_tenants_token_is_worth_nothing(service: Service, alice: Tenant) -> None:
    await service.operator.ok("DELETE", f"/v1/tenants/{alice.id}", status=204)
    await alice.problem(401, "token_invalid", "GET", "/v1/keys")


async def test_an_application_with_a_route_that_nobody_thought_about_does_not_start(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = control_router("Keys")

    @router.get("/v1/forgotten")
    async def forgotten() -> None: ...

    monkeypatch.setattr(app, "ROUTERS", (*app.ROUTERS, SimpleNamespace(router=router)))
    with pytest.raises(TypeError, match="/v1/forgotten"):
        app.create_app(service.runtime)


def test_a_route_declares_one_permission_not_two() -> None:
    @permit(Permission.KEYS_READ)
    async def endpoint() -> None: ...

    with pytest.raises(TypeError, match="two permissions"):
        permit(Permission.KEYS_WRITE)(endpoint)
