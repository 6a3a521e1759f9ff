"""Customers over HTTP: limits that all their keys share, and what keeps one from going."""

from __future__ import annotations

import pytest

from tests.api.support import Caller, Json, Tenant

NEVER = "cus_06dnd0g2v5v7h3m8k1q0p2r4t6"


async def customer(tenant: Tenant, **fields: object) -> Json:
    made: Json = await tenant.ok("POST", "/v1/customers", {"name": "Acme", **fields}, status=201)
    return made


async def test_a_customer_is_made_found_changed_and_removed(alice: Tenant) -> None:
    made = await customer(alice, external_id="crm-1", email="api@acme.example", rate_limits=["5000/minute"])
    path = f"/v1/customers/{made['id']}"
    assert await alice.ok("GET", path) == made
    assert made["rate_limits"][0]["requests"] == 5000
    assert (await alice.ok("GET", "/v1/customers?external_id=crm-1"))["data"] == [made]
    assert (await alice.ok("GET", "/v1/customers?q=acm"))["data"] == [made]
    assert (await alice.ok("GET", "/v1/customers?q=zzz"))["data"] == []
    changed = await alice.ok("PATCH", path, {"name": "Acme Ltd", "email": None})
    assert (changed["name"], changed["email"], changed["external_id"]) == ("Acme Ltd", None, "crm-1")
    await alice.ok("DELETE", path, status=204)
    await alice.problem(404, "not_found", "GET", path)


async def test_all_keys_of_a_customer_share_its_limits(alice: Tenant) -> None:
    made = await customer(alice, rate_limits=["3/minute"])
    keys = [await alice.key(customer_id=made["id"]) for _ in range(2)]
    asker = Caller(alice.client, alice.service_key)
    allowed = [(await asker.ok("POST", "/v1/check", {"api_key": keys[n % 2]["key"]}))["allowed"] for n in range(5)]
    assert allowed == [True, True, True, False, False]
    await alice.ok("PATCH", f"/v1/customers/{made['id']}", {"rate_limits": []})
    assert (await asker.ok("POST", "/v1/check", {"api_key": keys[0]["key"]}))["allowed"]


async def test_resetting_one_key_leaves_the_shared_limit(alice: Tenant) -> None:
    made = await customer(alice, rate_limits=["1/minute"])
    key = await alice.key(customer_id=made["id"])
    asker = Caller(alice.client, alice.service_key)
    assert (await asker.ok("POST", "/v1/check", {"api_key": key["key"]}))["allowed"]
    await alice.ok("POST", f"/v1/keys/{key['id']}/limits/reset", status=204)
    assert not (await asker.ok("POST", "/v1/check", {"api_key": key["key"]}))["allowed"]


async def test_a_customer_with_keys_stays(alice: Tenant) -> None:
    made = await customer(alice)
    for _ in range(3):
        await alice.key(customer_id=made["id"])
    problem = await alice.problem(409, "conflict", "DELETE", f"/v1/customers/{made['id']}")
    assert "3 keys" in problem["detail"]


async def test_an_external_id_is_unique_within_the_tenant(alice: Tenant, bob: Tenant) -> None:
    await customer(alice, external_id="crm-1")
    await customer(bob, external_id="crm-1")
    await alice.problem(409, "conflict", "POST", "/v1/customers", {"name": "x", "external_id": "crm-1"})
    other = await customer(alice, external_id="crm-2")
    await alice.problem(409, "conflict", "PATCH", f"/v1/customers/{other['id']}", {"external_id": "crm-1"})


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"email": "no address"}, "validation_failed"),
        ({"external_id": ""}, "validation_failed"),
        ({"rate_limits": [{"strategy": "fixed_window", "requests": 0, "window_seconds": 1}]}, "invalid_limit"),
        ({"rate_limits": ["1/second"] * 21}, "validation_failed"),
        ({"rate_limit": "1/second"}, "validation_failed"),
    ],
)
async def test_what_a_customer_cannot_have_is_422(alice: Tenant, fields: Json, code: str) -> None:
    await alice.problem(422, code, "POST", "/v1/customers", {"name": "x", **fields})


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)])
async def test_a_customer_that_never_was_is_404(alice: Tenant, method: str, body: object) -> None:
    await alice.problem(404, "not_found", method, f"/v1/customers/{NEVER}", body)
