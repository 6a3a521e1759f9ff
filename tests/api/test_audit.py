"""The audit log over HTTP: every change, by whom, from where; no secret; found by its parts."""

from __future__ import annotations

from tests.api.support import Service, Tenant


async def test_every_change_is_an_entry_with_who_what_where_and_the_request(service: Service, alice: Tenant) -> None:
    made = await alice.key(name="k", metadata={"private": "canary-metadata"})
    changed = await alice.ask(
        "PATCH", f"/v1/keys/{made['id']}", {"enabled": False}, headers={"X-Request-Id": "the-request-id"}
    )
    assert changed.status_code == 200
    entry = (await alice.ok("GET", "/v1/audit-log?limit=1"))["data"][0]
    assert (entry["action"], entry["actor"], entry["target"]) == ("key.updated", alice.token_id, made["id"])
    assert (entry["before"], entry["after"]) == ({"enabled": True}, {"enabled": False})
    assert (entry["address"], entry["request_id"]) == ("127.0.0.1", "the-request-id")
    text = (await alice.ask("GET", "/v1/audit-log?limit=100")).text
    for secret in (made["key"], alice.secret, alice.service_key, "canary-metadata"):
        assert secret not in text
    assert (await service.runtime.audit.verify(alice.id)).holds


async def test_a_change_that_changes_nothing_is_no_entry_and_no_update(alice: Tenant, service: Service) -> None:
    key = await alice.key(name="k", rate_limit="5/minute")
    customer = await alice.ok("POST", "/v1/customers", {"name": "c"}, status=201)
    policy = (await alice.ok("GET", "/v1/policies"))["data"][0]
    at = {
        "/v1/tenant": await alice.ok("GET", "/v1/tenant"),
        f"/v1/keys/{key['id']}": await alice.ok("GET", f"/v1/keys/{key['id']}"),
        f"/v1/customers/{customer['id']}": customer,
        f"/v1/policies/{policy['id']}": policy,
    }
    before = (await alice.ok("GET", "/v1/audit-log?limit=1"))["data"][0]["sequence"]
    service.clock.advance(1)
    for path, shown in at.items():
        for changes in ({}, {"name": shown["name"]}):
            assert await alice.ok("PATCH", path, changes) == shown
    assert (await alice.ok("GET", "/v1/audit-log?limit=1"))["data"][0]["sequence"] == before


async def test_each_kind_of_change_leaves_its_action(alice: Tenant) -> None:
    key = await alice.key()
    path = f"/v1/keys/{key['id']}"
    await alice.ok("PATCH", path, {"name": "n"})
    await alice.ok("POST", f"{path}/rotate")
    await alice.ok("POST", f"{path}/limits/reset", status=204)
    await alice.ok("DELETE", path, status=204)
    await alice.ok("POST", "/v1/keys/import", {"keys": [{"name": "i", "key": "x" * 30}]})
    customer = await alice.ok("POST", "/v1/customers", {"name": "c"}, status=201)
    await alice.ok("PATCH", f"/v1/customers/{customer['id']}", {"name": "d"})
    await alice.ok("DELETE", f"/v1/customers/{customer['id']}", status=204)
    block = await alice.ok("POST", "/v1/blocklist", {"ip": "1.2.3.4"}, status=201)
    await alice.ok("DELETE", f"/v1/blocklist/{block['id']}", status=204)
    allow = await alice.ok("POST", "/v1/allowlist", {"ip": "1.2.3.4"}, status=201)
    await alice.ok("DELETE", f"/v1/allowlist/{allow['id']}", status=204)
    policy = (await alice.ok("GET", "/v1/policies"))["data"][0]
    await alice.ok("PATCH", f"/v1/policies/{policy['id']}", {"mode": "shadow"})
    await alice.ok("DELETE", f"/v1/policies/{policy['id']}", status=204)
    token = await alice.ok("POST", "/v1/tokens", {"name": "t", "role": "viewer"}, status=201)
    await alice.ok("DELETE", f"/v1/tokens/{token['id']}", status=204)
    await alice.ok("PATCH", "/v1/tenant", {"name": "renamed"})
    entries = (await alice.ok("GET", "/v1/audit-log?limit=100"))["data"]
    families = {entry["action"].partition(".")[0] for entry in entries}
    assert families == {"tenant", "token", "key", "policy", "customer", "block", "allow"}
    assert len(entries) == 4 + 18  # what signing up makes, and the changes above
    assert [entry["sequence"] for entry in entries] == sorted((e["sequence"] for e in entries), reverse=True)


async def test_a_refused_change_leaves_no_entry(alice: Tenant) -> None:
    before = (await alice.ok("GET", "/v1/audit-log"))["data"]
    await alice.problem(422, "validation_failed", "POST", "/v1/keys", {"name": "k", "customer_id": "x"})
    viewer = await alice.viewer()
    await viewer.problem(403, "forbidden", "POST", "/v1/keys", {"name": "k"})
    after = (await alice.ok("GET", "/v1/audit-log"))["data"]
    assert [entry["action"] for entry in after[: len(after) - len(before)]] == ["token.created"]


async def test_entries_are_found_by_actor_action_target_and_time(service: Service, alice: Tenant) -> None:
    service.clock.advance(60)
    key = await alice.key()
    service.clock.advance(60)
    operator = service.operator.acting(**{"X-APIShield-Tenant": alice.id})
    await operator.ok("PATCH", f"/v1/keys/{key['id']}", {"name": "n"})

    async def found(query: str) -> list[str]:
        return [entry["action"] for entry in (await alice.ok("GET", f"/v1/audit-log?{query}"))["data"]]

    assert await found(f"target={key['id']}") == ["key.updated", "key.created"]
    assert await found("actor=operator&action=key.updated") == ["key.updated"]
    assert await found(f"actor={alice.token_id}") == ["key.created"]
    assert await found("action=policy.*") == ["policy.created"]
    assert await found("from=2026-11-18T11:07:40Z") == ["key.updated", "key.created"]
    assert await found("from=2026-11-18T11:07:40Z&to=2026-11-18T12:08:40%2B01:00") == ["key.created"]
    await alice.problem(422, "validation_failed", "GET", "/v1/audit-log?from=yesterday")


async def test_the_operator_without_a_tenant_sees_what_was_done_for_all(service: Service, alice: Tenant) -> None:
    await service.operator.ok("POST", "/v1/blocklist", {"ip": "203.0.113.66"}, status=201)
    actions = [entry["action"] for entry in (await service.operator.ok("GET", "/v1/audit-log"))["data"]]
    assert actions == ["block.created"]
    assert "203.0.113.66" not in (await alice.ask("GET", "/v1/audit-log")).text
