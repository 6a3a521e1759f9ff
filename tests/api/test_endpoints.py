"""The catalogue of endpoints over HTTP, and what it changes about checks."""

from __future__ import annotations

from typing import Any

import pytest

from apishield.services.base import Ceilings
from apishield.services.endpoints import EndpointService
from tests.api.support import Caller, Json, Service, Tenant

NEVER = "end_06dnd0g2v5v7h3m8k1q0p2r4t6"
ORDER: Json = {"method": "GET", "path": "/orders/{id}", "required_scopes": ["orders:read"]}


async def check(tenant: Tenant, **question: Any) -> Json:
    decision: Json = await Caller(tenant.client, tenant.service_key).ok("POST", "/v1/check", question)
    return decision


def document(paths: Json, **more: Any) -> Json:
    return {"openapi": "3.1.0", "info": {"title": "Orders", "version": "1"}, "paths": paths, **more}


# --- the routes -------------------------------------------------------------------------------------------------------


async def test_an_endpoint_is_made_listed_shown_and_removed(alice: Tenant) -> None:
    made = await alice.ok("POST", "/v1/endpoints", ORDER, status=201)
    assert made["id"].startswith("end_")
    assert {name: made[name] for name in ORDER} == ORDER
    assert (made["cost"], made["login"]) == (1, False)
    path = f"/v1/endpoints/{made['id']}"
    assert await alice.ok("GET", path) == made
    assert (await alice.ok("GET", "/v1/endpoints"))["data"] == [made]
    await alice.ok("DELETE", path, status=204)
    await alice.problem(404, "not_found", "GET", path)
    actions = [entry["action"] for entry in (await alice.ok("GET", "/v1/audit-log"))["data"]]
    assert actions[:2] == ["endpoint.deleted", "endpoint.created"]


async def test_there_is_one_endpoint_of_a_method_and_path_whatever_its_placeholders_are_called(alice: Tenant) -> None:
    await alice.ok("POST", "/v1/endpoints", ORDER, status=201)
    for path in ("/orders/{id}", "/orders/{order}", "/orders/{id}/"):
        problem = await alice.problem(409, "conflict", "POST", "/v1/endpoints", {**ORDER, "path": path})
        assert problem["errors"][0]["pointer"] == "/path"
    await alice.ok("POST", "/v1/endpoints", {**ORDER, "method": "*"}, status=201)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"method": "get"}, "/method"),
        ({"method": ""}, "/method"),
        ({"path": "orders"}, "/path"),
        ({"path": "/orders/{"}, "/path"),
        ({"path": "/orders/../x"}, "/path"),
        ({"path": "/" + "a" * 1024}, "/path"),
        ({"required_scopes": ["a b"]}, "/required_scopes/0"),
        ({"required_scopes": "a"}, "/required_scopes"),
        ({"cost": -1}, "/cost"),
        ({"cost": 1.5}, "/cost"),
        ({"cost": True}, "/cost"),
        ({"cost": 10**9 + 1}, "/cost"),
        ({"cost": {}}, "/cost"),
        ({"cost": {"tokens": -1}}, "/cost"),
        ({"cost": {"To kens": 1}}, "/cost"),
        ({"login": 1}, "/login"),
        ({"unknown": 1}, "/unknown"),
    ],
)
async def test_an_endpoint_that_can_not_be_is_422_by_its_field(alice: Tenant, change: Json, pointer: str) -> None:
    problem = await alice.problem(422, "validation_failed", "POST", "/v1/endpoints", {**ORDER, **change})
    assert all(error["pointer"].startswith(pointer) for error in problem["errors"]), problem


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_endpoint_that_never_was_is_404(alice: Tenant, method: str) -> None:
    await alice.problem(404, "not_found", method, f"/v1/endpoints/{NEVER}")


async def test_a_viewer_reads_the_catalogue_and_changes_nothing(alice: Tenant) -> None:
    viewer = await alice.viewer()
    await viewer.ok("GET", "/v1/endpoints")
    await viewer.problem(403, "forbidden", "POST", "/v1/endpoints", ORDER)
    await viewer.problem(403, "forbidden", "POST", "/v1/endpoints/import", document({}))


# --- import -----------------------------------------------------------------------------------------------------------


async def test_a_document_is_imported_and_importing_it_again_changes_nothing(alice: Tenant) -> None:
    whole = document(
        {
            "/orders/{id}": {"get": {"security": [{"oauth": ["orders:read"]}]}, "delete": {}},
            "/export/{name}.csv": {"post": {"x-apishield-cost": {"requests": 1, "rows": 500}}},
            "/login": {"post": {"security": [], "x-apishield-login": True}},
        },
        servers=[{"url": "https://api.example.com/v1"}],
    )
    first = await alice.ok("POST", "/v1/endpoints/import", whole)
    assert (first["created"], first["updated"], first["unchanged"], first["failed"]) == (4, 0, 0, 0)
    shown = {f"{each['method']} {each['path']}": each for each in (await alice.ok("GET", "/v1/endpoints"))["data"]}
    assert {name: (each["required_scopes"], each["cost"], each["login"]) for name, each in shown.items()} == {
        "GET /v1/orders/{id}": (["orders:read"], 1, False),
        "DELETE /v1/orders/{id}": (None, 1, False),
        "POST /v1/export/{name}.csv": (None, {"requests": 1, "rows": 500}, False),
        "POST /v1/login": ([], 1, True),
    }
    again = await alice.ok("POST", "/v1/endpoints/import", whole)
    assert (again["created"], again["unchanged"]) == (0, 4)
    assert [each["id"] for each in again["results"]] == [each["id"] for each in first["results"]]


async def test_importing_again_changes_what_the_document_says_and_leaves_the_rest(alice: Tenant) -> None:
    kept = await alice.ok("POST", "/v1/endpoints", {"method": "GET", "path": "/kept"}, status=201)
    made = await alice.ok("POST", "/v1/endpoints", {**ORDER, "cost": 7, "login": True}, status=201)
    changed = document({"/orders/{order}": {"get": {"security": [{"oauth": ["orders:list"]}]}}})
    assert (await alice.ok("POST", "/v1/endpoints/import", changed))["updated"] == 1
    now = await alice.ok("GET", f"/v1/endpoints/{made['id']}")
    assert (now["path"], now["required_scopes"], now["cost"], now["login"]) == (
        "/orders/{order}",
        ["orders:list"],
        7,
        True,
    )
    assert await alice.ok("GET", f"/v1/endpoints/{kept['id']}") == kept
    entry = (await alice.ok("GET", "/v1/audit-log"))["data"][0]
    assert (entry["action"], entry["before"]["required_scopes"]) == ("endpoint.updated", ["orders:read"])


async def test_a_bad_operation_spoils_only_itself_and_is_named_by_its_place(alice: Tenant) -> None:
    found = await alice.ok(
        "POST",
        "/v1/endpoints/import",
        document(
            {
                "/good": {"get": {}},
                "/orders?x": {"get": {}},
                "/cost": {"get": {"x-apishield-cost": "much"}},
                "/login": {"get": {"x-apishield-login": "yes"}},
                "/scopes": {"get": {"x-apishield-required-scopes": ["a b"]}},
                "/good/": {"get": {}},
                "/reference": {"$ref": "elsewhere.json"},
            }
        ),
    )
    assert [each["outcome"] for each in found["results"]] == ["created", *["failed"] * 6]
    assert [each["errors"][0]["pointer"] for each in found["results"][1:]] == [
        "/paths/~1orders?x/get",
        "/paths/~1cost/get/x-apishield-cost",
        "/paths/~1login/get/x-apishield-login",
        "/paths/~1scopes/get/security",
        "/paths/~1good~1/get",
        "/paths/~1reference",
    ]
    assert "same endpoint as /paths/~1good/get" in found["results"][5]["errors"][0]["message"]
    assert len((await alice.ok("GET", "/v1/endpoints"))["data"]) == 1


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, ""), ({"openapi": "3.1.0"}, "/paths"), (document({}, servers=[{"url": "/a"}, {"url": "/b"}]), "/servers")],
)
async def test_what_is_no_document_is_422(alice: Tenant, body: Json, pointer: str) -> None:
    problem = await alice.problem(422, "validation_failed", "POST", "/v1/endpoints/import", body)
    assert problem["errors"][0]["pointer"] == pointer


async def test_the_base_path_can_be_given(alice: Tenant) -> None:
    body = document({"/a": {"get": {}}}, servers=[{"url": "/a"}, {"url": "/b"}])
    found = await alice.ok("POST", "/v1/endpoints/import?base_path=/v9", body)
    assert found["results"][0]["path"] == "/v9/a"
    await alice.problem(422, "validation_failed", "POST", "/v1/endpoints/import?base_path=v9", body)


@pytest.mark.parametrize("servers", [[], [{"url": "https://a.example/v1"}]])
async def test_a_path_without_a_slash_fails_with_servers_and_without(alice: Tenant, servers: list[Json]) -> None:
    body = document({"orders": {"get": {}}, "/orders": {"get": {}}}, servers=servers)
    found = await alice.ok("POST", "/v1/endpoints/import", body)
    failed, made = found["results"]
    assert (failed["path"], failed["outcome"], made["outcome"]) == ("orders", "failed", "created")
    assert [each["pointer"] for each in failed["errors"]] == ["/paths/orders/get"]


async def test_a_catalogue_has_a_ceiling(service: Service, alice: Tenant) -> None:
    runtime = service.runtime
    runtime.endpoints = EndpointService(runtime.database, runtime.secrets, ceilings=Ceilings(endpoints=2))
    body = document({f"/{number}": {"get": {}} for number in range(3)})
    found = await alice.ok("POST", "/v1/endpoints/import", body)
    assert [each["outcome"] for each in found["results"]] == ["created", "created", "failed"]
    await alice.problem(422, "ceiling_reached", "POST", "/v1/endpoints", ORDER)


async def test_five_thousand_operations_are_imported_at_once_and_found_at_once(alice: Tenant) -> None:
    paths = {f"/r{number}/{{id}}": {"get": {"security": [{"o": [f"s{number}"]}]}} for number in range(5_000)}
    found = await alice.ok("POST", "/v1/endpoints/import", document(paths))
    assert found["created"] == 5_000
    key = await alice.key(scopes=["s4999"])
    assert (await check(alice, api_key=key["key"], method="GET", path="/r4999/x"))["allowed"]
    assert (await check(alice, api_key=key["key"], method="GET", path="/r4998/x"))["code"] == "scope_missing"


# --- checks -----------------------------------------------------------------------------------------------------------


async def test_an_endpoint_with_scopes_wants_a_key_that_holds_them(alice: Tenant) -> None:
    holder = await alice.key(scopes=["orders:*"])
    reader = await alice.key(scopes=["read", "write"])
    question = {"method": "GET", "path": "/orders/7", "ip": "192.0.2.1"}
    assert (await check(alice, **question))["code"] == "ok"
    made = await alice.ok("POST", "/v1/endpoints", ORDER, status=201)
    assert (await check(alice, **question))["code"] == "key_missing"
    assert (await check(alice, **question, api_key=reader["key"]))["code"] == "scope_missing"
    assert (await check(alice, **question, api_key=holder["key"]))["code"] == "ok"
    assert (await check(alice, **{**question, "path": "/orders"}))["code"] == "ok"
    await alice.ok("DELETE", f"/v1/endpoints/{made['id']}", status=204)
    assert (await check(alice, **question))["code"] == "ok"


@pytest.mark.parametrize("spelling", ["/orders/7/", "//orders/7", "/orders/%37", "/orders/7?admin=1"])
@pytest.mark.parametrize("method", ["GET", "get", "HEAD"])
async def test_no_spelling_of_a_path_and_no_other_word_for_a_method_gets_around_a_scope(
    alice: Tenant, spelling: str, method: str
) -> None:
    await alice.ok("POST", "/v1/endpoints", ORDER, status=201)
    assert (await check(alice, method=method, path=spelling, ip="192.0.2.1"))["code"] == "key_missing"


async def test_scopes_that_a_check_names_come_on_top_of_the_endpoints(alice: Tenant) -> None:
    await alice.ok("POST", "/v1/endpoints", ORDER, status=201)
    one = await alice.key(scopes=["billing"])
    both = await alice.key(scopes=["billing", "orders:read"])
    question = {"method": "GET", "path": "/orders/7", "scopes": ["billing"]}
    assert (await check(alice, **question, api_key=one["key"]))["code"] == "scope_missing"
    assert (await check(alice, **question, api_key=both["key"]))["code"] == "ok"
    assert (await check(alice, **{**question, "scopes": []}, api_key=one["key"]))["code"] == "scope_missing"


async def test_an_endpoint_that_asks_for_nothing_takes_any_key(alice: Tenant) -> None:
    key = await alice.key(scopes=["orders:read"])
    question = {"method": "POST", "path": "/ping", "api_key": key["key"]}
    assert (await check(alice, **question))["code"] == "scope_missing"
    await alice.ok("POST", "/v1/endpoints", {"method": "POST", "path": "/ping", "required_scopes": []}, status=201)
    assert (await check(alice, **question))["code"] == "ok"


async def test_the_charge_is_the_policys_cost_times_the_checks_else_the_endpoints_else_one(alice: Tenant) -> None:
    await alice.ok("POST", "/v1/endpoints", {"method": "POST", "path": "/export", "cost": 10}, status=201)
    policy = {"name": "p", "per": ["key"], "limit": "1000/minute", "cost": 3}
    await alice.ok("POST", "/v1/policies", policy, status=201)
    key = await alice.key(scopes=["write"], rate_limit="100/minute")

    async def remaining(**question: Any) -> dict[str, int]:
        found = await check(alice, api_key=key["key"], method="POST", **question)
        return {limit["name"]: limit["remaining"] for limit in found["limits"]}

    assert await remaining(path="/export") == {"default": 90, "p": 970}
    assert await remaining(path="/export", cost=1) == {"default": 89, "p": 967}
    assert await remaining(path="/other") == {"default": 88, "p": 964}
    assert await remaining(path="/export", cost=0) == {"default": 88, "p": 964}


async def test_an_endpoint_may_cost_units(alice: Tenant) -> None:
    cost = {"requests": 2, "tokens": 900}
    await alice.ok("POST", "/v1/endpoints", {"method": "POST", "path": "/chat", "cost": cost}, status=201)
    limits = ["10/minute", {"strategy": "sliding_window", "requests": 1000, "window_seconds": 60, "unit": "tokens"}]
    key = await alice.key(scopes=["write"], rate_limits=limits)
    found = await check(alice, api_key=key["key"], method="POST", path="/chat")
    assert {limit["unit"]: limit["remaining"] for limit in found["limits"]} == {"requests": 8, "tokens": 100}


async def test_per_endpoint_counts_the_template_and_never_the_raw_path(alice: Tenant) -> None:
    await alice.ok("POST", "/v1/endpoints", {"method": "GET", "path": "/orders/{id}"}, status=201)
    await alice.ok("POST", "/v1/endpoints", {"method": "GET", "path": "/orders/export"}, status=201)
    policy = {"name": "each", "match": {"path": "/*"}, "per": ["endpoint"], "limit": "2/minute"}
    await alice.ok("POST", "/v1/policies", policy, status=201)
    await alice.ok("PATCH", f"/v1/policies/{await anonymous(alice)}", {"enabled": False})

    async def allowed(path: str, method: str = "GET") -> bool:
        return bool((await check(alice, method=method, path=path, ip="192.0.2.1"))["allowed"])

    assert [await allowed(f"/orders/{number}") for number in range(3)] == [True, True, False]
    assert not await allowed("/orders/9", "HEAD")
    assert [await allowed("/orders/export") for _ in range(3)] == [True, True, False]
    assert [await allowed(f"/unknown/{number}") for number in range(3)] == [True, True, False]
    assert [await allowed(f"/x/{word}", word) for word in ("AA", "AB", "AC")] == [True, True, False]


async def anonymous(tenant: Tenant) -> str:
    """The id of the policy for callers without a key."""
    found = (await tenant.ok("GET", "/v1/policies"))["data"]
    return next(str(policy["id"]) for policy in found if policy["name"] == "anonymous")
