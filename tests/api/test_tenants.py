"""Tenants over HTTP: what a tenant sees and changes of itself, and the operator of all."""

from __future__ import annotations

import pytest

from tests.api.support import Caller, Service, Tenant

NEVER = "ten_06dnd0g2v5v7h3m8k1q0p2r4t6"


async def test_a_tenant_sees_and_changes_itself(alice: Tenant) -> None:
    changed = await alice.ok(
        "PATCH",
        "/v1/tenant",
        {"name": "Renamed", "require_key": True, "time_zone": "Europe/Berlin", "metadata": {"a": 1}},
    )
    assert changed == await alice.ok("GET", "/v1/tenant")
    assert (changed["name"], changed["require_key"], changed["time_zone"], changed["metadata"]) == (
        "Renamed",
        True,
        "Europe/Berlin",
        {"a": 1},
    )


@pytest.mark.parametrize("change", [{"plan": "enterprise"}, {"status": "active"}, {"id": NEVER}])
async def test_a_tenant_does_not_change_its_plan_or_status(alice: Tenant, change: dict[str, str]) -> None:
    await alice.problem(422, "validation_failed", "PATCH", "/v1/tenant", change)


@pytest.mark.parametrize(
    "change", [{"name": None}, {"time_zone": "Mars/Olympus"}, {"require_key": None}, {"status": "deleted"}]
)
async def test_a_change_that_cannot_be_is_422(service: Service, alice: Tenant, change: dict[str, object]) -> None:
    await service.operator.problem(422, "validation_failed", "PATCH", f"/v1/tenants/{alice.id}", change)


async def test_the_operator_lists_pages_of_all_tenants_newest_first(service: Service) -> None:
    made = []
    for number in range(5):
        service.clock.advance(1)
        made.append((await service.tenant(f"Tenant {number}")).id)
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = await service.operator.ok("GET", f"/v1/tenants?limit=2{cursor}")
        seen += [tenant["id"] for tenant in page["data"]]
        cursor = f"&cursor={page['next_cursor']}"
        assert page["has_more"] is (page["next_cursor"] is not None)
    assert seen == made[::-1]
    assert page["next_cursor"] is None


async def test_the_operator_changes_plan_and_status(service: Service, alice: Tenant) -> None:
    changed = await service.operator.ok("PATCH", f"/v1/tenants/{alice.id}", {"plan": "enterprise"})
    assert changed["plan"] == "enterprise"
    assert (await service.operator.ok("GET", f"/v1/tenants/{alice.id}")) == changed


async def test_deleting_a_tenant_ends_its_tokens_and_keys_for_good(service: Service, alice: Tenant) -> None:
    await service.operator.ok("DELETE", f"/v1/tenants/{alice.id}", status=204)
    await alice.problem(401, "token_invalid", "GET", "/v1/tenant")
    check = Caller(service.client, alice.service_key)
    assert (await check.ask("POST", "/v1/check", {})).status_code == 401
    await service.operator.problem(404, "not_found", "GET", f"/v1/tenants/{alice.id}")
    await service.operator.problem(404, "not_found", "PATCH", f"/v1/tenants/{alice.id}", {"status": "active"})


async def test_a_tenant_that_never_was_is_404(service: Service) -> None:
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        await service.operator.problem(404, "not_found", method, f"/v1/tenants/{NEVER}", body)
