"""Policies over HTTP: the one that every tenant has, and others."""

from __future__ import annotations

import threading
from typing import Any

import http_sf
import pytest

from apishield.api import strict_json
from apishield.api.routers import policies as router
from apishield.api.schemas import policies as schemas
from apishield.services import policy_checks, snapshot
from tests.api.support import Caller, Tenant

NEVER = "pol_06dnd0g2v5v7h3m8k1q0p2r4t6"
SEARCH: dict[str, Any] = {
    "name": "Search",
    "match": {"methods": ["POST"], "path": "/v1/search*", "caller": "any"},
    "per": ["ip"],
    "limit": "2/minute",
}


async def allowed(tenant: Tenant, **question: Any) -> bool:
    asker = Caller(tenant.client, tenant.service_key)
    return bool((await asker.ok("POST", "/v1/check", {"ip": "192.0.2.1", **question}))["allowed"])


async def test_callers_without_a_key_are_limited_per_address_and_the_limit_can_be_changed(alice: Tenant) -> None:
    policy = (await alice.ok("GET", "/v1/policies"))["data"][0]
    assert policy["name"] == "anonymous"
    changed = await alice.ok("PATCH", f"/v1/policies/{policy['id']}", {"limit": "2/minute"})
    assert (changed["limit"]["name"], changed["limit"]["requests"]) == ("anonymous", 2)
    assert [await allowed(alice) for _ in range(3)] == [True, True, False]
    assert await allowed(alice, ip="192.0.2.2")
    await alice.ok("PATCH", f"/v1/policies/{policy['id']}", {"mode": "shadow"})
    assert await allowed(alice)
    await alice.ok("PATCH", f"/v1/policies/{policy['id']}", {"mode": "enforce", "enabled": False})
    assert await allowed(alice)


async def test_a_policy_is_made_acts_is_changed_and_removed(alice: Tenant) -> None:
    made = await alice.ok("POST", "/v1/policies", SEARCH, status=201)
    path = f"/v1/policies/{made['id']}"
    assert await alice.ok("GET", path) == made
    assert made["match"] == {
        "methods": ["POST"],
        "path": "/v1/search*",
        "caller": "any",
        "scopes": [],
        "plan": None,
        "environment": None,
        "attributes": {},
    }
    search = {"method": "POST", "path": "/v1/search/all"}
    assert [await allowed(alice, **search) for _ in range(3)] == [True, True, False]
    assert await allowed(alice, method="GET", path="/v1/search/all")
    changed = await alice.ok("PATCH", path, {"limit": "3/minute", "cost": 1})
    assert (changed["limit"]["requests"], changed["per"]) == (3, ["ip"])
    assert [await allowed(alice, **search) for _ in range(2)] == [True, False]
    await alice.ok("DELETE", path, status=204)
    assert await allowed(alice, **search)
    await alice.problem(404, "not_found", "GET", path)


async def test_an_override_is_kept_with_its_expiry(alice: Tenant) -> None:
    override = {"subject": {"ip": "192.0.2.9"}, "limit": "50/minute", "expires_at": "2027-01-01T00:00:00+01:00"}
    made = await alice.ok("POST", "/v1/policies", {**SEARCH, "overrides": [override]}, status=201)
    shown = made["overrides"][0]
    assert (shown["subject"], shown["limit"]["requests"], shown["expires_at"]) == (
        {"ip": "192.0.2.9"},
        50,
        "2026-12-31T23:00:00Z",
    )


async def test_a_name_is_unique_within_the_tenant(alice: Tenant, bob: Tenant) -> None:
    for tenant in (alice, bob):
        await tenant.ok("POST", "/v1/policies", SEARCH, status=201)
    await alice.problem(409, "conflict", "POST", "/v1/policies", SEARCH)


@pytest.mark.parametrize(
    "name", ["Login (per IP)", "API & co", "ü", "a?", "x'y", "-x", 'say "hi"', "back\\slash", "日本", "é" * 200]
)
async def test_a_policy_may_have_any_printable_name_which_is_shown_listed_and_sent_back(
    alice: Tenant, name: str
) -> None:
    made = await alice.ok("POST", "/v1/policies", {**SEARCH, "name": name}, status=201)
    assert (made["name"], made["limit"]["name"]) == (name, name[:64])
    assert made in (await alice.ok("GET", "/v1/policies"))["data"]
    assert await alice.ok("PATCH", f"/v1/policies/{made['id']}", {"limit": made["limit"]}) == made
    question = {"method": "POST", "path": "/v1/search", "ip": "192.0.2.1"}
    decision = await Caller(alice.client, alice.service_key).ok("POST", "/v1/check", question)
    headers: Any = http_sf.parse(decision["headers"]["RateLimit"].encode(), tltype="list")
    assert len(headers) == len(decision["limits"])
    assert all(item.isprintable() for item, _ in headers)


@pytest.mark.parametrize("name", ["a\nb", "\x00", "x\u202ey", "", " x", "\u2028"])
async def test_a_name_with_control_characters_is_422_and_named_once(alice: Tenant, name: str) -> None:
    override = {"subject": {"ip": "192.0.2.9"}, "limit": "50/minute"}
    body = {**SEARCH, "name": name, "overrides": [override]}
    problem = await alice.problem(422, "validation_failed", "POST", "/v1/policies", body)
    assert [fault["pointer"] for fault in problem["errors"]] == ["/name"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"per": []}, "validation_failed"),
        ({"per": ["planet"]}, "validation_failed"),
        ({"per": "ip"}, "validation_failed"),
        ({"limit": None}, "invalid_limit"),
        ({"limit": "0/minute"}, "invalid_limit"),
        ({"limit": {"strategy": "fixed_window", "requests": 1, "window_seconds": 10**9}}, "invalid_limit"),
        ({"cost": -1}, "validation_failed"),
        ({"cost": 1.5}, "validation_failed"),
        ({"cost": 3}, "validation_failed"),
        ({"cost": 2, "overrides": [{"subject": {"ip": "192.0.2.9"}, "limit": "1/second"}]}, "invalid_limit"),
        ({"mode": "observe"}, "validation_failed"),
        ({"match": {"path": "no-slash"}}, "validation_failed"),
        ({"match": {"methods": ["post"]}}, "validation_failed"),
        ({"match": {"caller": "everybody"}}, "validation_failed"),
        ({"match": {"unknown": 1}}, "validation_failed"),
        ({"match": None}, "validation_failed"),
        ({"overrides": [{"subject": {}, "limit": "1/second"}]}, "validation_failed"),
        ({"overrides": [{"subject": {"planet": "x"}, "limit": "1/second"}]}, "validation_failed"),
    ],
)
async def test_a_policy_that_cannot_be_is_422_when_made_and_when_changed(
    alice: Tenant, change: dict[str, Any], code: str
) -> None:
    await alice.problem(422, code, "POST", "/v1/policies", {**SEARCH, **change})
    made = await alice.ok("POST", "/v1/policies", SEARCH, status=201)
    await alice.problem(422, code, "PATCH", f"/v1/policies/{made['id']}", change)


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)])
async def test_a_policy_that_never_was_is_404(alice: Tenant, method: str, body: object) -> None:
    await alice.problem(404, "not_found", method, f"/v1/policies/{NEVER}", body)


def _overrides(count: int) -> list[dict[str, Any]]:
    return [
        {"subject": {"ip": f"10.0.{place // 250}.{place % 250}"}, "limit": f"{place % 7 + 1}/minute"}
        for place in range(count)
    ]


async def test_a_list_shows_the_first_hundred_overrides_and_a_policy_by_itself_all(alice: Tenant) -> None:
    body = {**SEARCH, "overrides": _overrides(250)}
    made = await alice.ok("POST", "/v1/policies", body, status=201)
    assert (len(made["overrides"]), made["overrides_total"]) == (250, 250)
    assert await alice.ok("GET", f"/v1/policies/{made['id']}") == made
    listed = (await alice.ok("GET", "/v1/policies?limit=2"))["data"]
    assert {**made, "overrides": made["overrides"][:100]} in listed
    changed = await alice.ok("PATCH", f"/v1/policies/{made['id']}", {"limit": "9/minute"})
    assert changed["overrides"] == made["overrides"]


async def test_thousands_of_overrides_are_worked_on_beside_the_loop_that_answers_everybodys_checks(
    alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: dict[str, set[int]] = {}

    def watch(module: Any, name: str) -> None:
        real = getattr(module, name)

        def watched(*given: Any, **named: Any) -> Any:
            worked.setdefault(name, set()).add(threading.get_ident())
            return real(*given, **named)

        monkeypatch.setattr(module, name, watched)

    watch(strict_json, "decode")
    watch(schemas.OverrideIn, "model_validate")
    watch(policy_checks, "checked")
    watch(snapshot, "CompiledPolicy")
    watch(router, "shown")
    watch(router, "listed")
    made = await alice.ok("POST", "/v1/policies", {**SEARCH, "overrides": _overrides(250)}, status=201)
    await alice.ok("GET", "/v1/policies")
    await alice.ok("GET", f"/v1/policies/{made['id']}")
    await alice.ok("PATCH", f"/v1/policies/{made['id']}", {"overrides": _overrides(240)})
    assert worked.keys() == {"decode", "model_validate", "checked", "CompiledPolicy", "shown", "listed"}
    assert [name for name, threads in worked.items() if threading.get_ident() in threads] == []


async def test_of_thousands_of_bad_overrides_the_first_faults_are_told(alice: Tenant) -> None:
    for limit, code in (("0/minute", "invalid_limit"), ("1/minute", "validation_failed")):
        bad = [{"subject": {"ip": "nowhere"}, "limit": limit}] * 1000
        problem = await alice.problem(422, code, "POST", "/v1/policies", {**SEARCH, "overrides": bad})
        assert problem["errors"][0]["pointer"].startswith("/overrides/0/")
        assert len(problem["errors"]) <= 51


async def test_a_cost_that_the_limit_can_never_admit_is_named(alice: Tenant) -> None:
    problem = await alice.problem(422, "validation_failed", "POST", "/v1/policies", {**SEARCH, "cost": 10})
    assert problem["errors"] == [{"pointer": "/cost", "message": "is 10, above the 2 that the limit ever admits"}]
    await alice.ok("POST", "/v1/policies", {**SEARCH, "limit": "2/minute burst 10", "cost": 10}, status=201)
