"""API keys over HTTP: the whole life, as the contract has it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.api.support import Caller, Json, Service, Tenant

NEVER = "key_06dnd0g2v5v7h3m8k1q0p2r4t6"


async def check(tenant: Tenant, secret: str, **question: Any) -> Json:
    """The verdict about a key."""
    asker = Caller(tenant.client, tenant.service_key)
    decision: Json = await asker.ok("POST", "/v1/check", {"api_key": secret, "method": "GET", "path": "/", **question})
    return decision


async def test_a_key_is_made_as_the_contract_shows(alice: Tenant) -> None:
    made = await alice.ok(
        "POST",
        "/v1/keys",
        {
            "name": "Production Key",
            "scopes": ["read", "write"],
            "rate_limit": {"strategy": "sliding_window", "requests": 1000, "window_seconds": 60},
            "quota": {"monthly_requests": 500000},
        },
        status=201,
    )
    secret = made.pop("key")
    assert secret.startswith("sk_live_")
    assert made["hint"] == f"{secret[:10]}…{secret[-4:]}"
    limit = {
        "name": "default",
        "strategy": "sliding_window",
        "requests": 1000,
        "window_seconds": 60,
        "unit": "requests",
        "mode": "enforce",
        "on_store_failure": "local",
        "charge_refused": False,
    }
    quota = {
        "name": "monthly_requests",
        "period": "month",
        "limit": 500000,
        "unit": "requests",
        "time_zone": "UTC",
        "mode": "enforce",
        "on_store_failure": "local",
    }
    assert made == {
        "id": made["id"],
        "name": "Production Key",
        "kind": "caller",
        "environment": "live",
        "status": "active",
        "enabled": True,
        "hint": made["hint"],
        "scopes": ["read", "write"],
        "rate_limits": [limit],
        "rate_limit": limit,
        "quotas": [quota],
        "quota": quota,
        "allowed_ips": [],
        "customer_id": None,
        "metadata": {},
        "created_at": "2026-11-18T11:06:40Z",
        "updated_at": "2026-11-18T11:06:40Z",
        "expires_at": None,
        "revoked_at": None,
        "previous_expires_at": None,
        "last_used_at": None,
    }
    shown = await alice.ask("GET", f"/v1/keys/{made['id']}")
    assert shown.json() == made
    assert secret not in shown.text
    assert (await check(alice, secret))["allowed"]


async def test_a_key_with_nothing_but_a_name_reads_and_writes(alice: Tenant) -> None:
    made = await alice.key()
    assert made["scopes"] == ["read", "write"]
    assert (await check(alice, made["key"], method="POST"))["allowed"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("100/minute", {"strategy": "sliding_window", "requests": 100, "window_seconds": 60}),
        ("10/second burst 20", {"strategy": "token_bucket", "requests": 10, "window_seconds": 1, "burst": 20}),
        ("1000/hour fixed", {"strategy": "fixed_window", "requests": 1000, "window_seconds": 3600}),
        (
            {"strategy": "token_bucket", "requests": 5, "window_seconds": 60},
            {"strategy": "token_bucket", "requests": 5, "window_seconds": 60, "burst": 5},
        ),
        (
            {"strategy": "concurrency", "requests": 3, "timeout_seconds": 30},
            {"strategy": "concurrency", "requests": 3, "timeout_seconds": 30},
        ),
        (
            {"strategy": "fixed_window", "requests": 1, "window_seconds": 31 * 86_400, "mode": "shadow"},
            {"strategy": "fixed_window", "requests": 1, "window_seconds": 31 * 86_400, "mode": "shadow"},
        ),
    ],
)
async def test_every_form_of_a_limit_is_shown_in_its_long_form_which_can_be_sent_back(
    alice: Tenant, given: Any, shown: Json
) -> None:
    made = await alice.key(rate_limit=given)
    assert made["rate_limit"].items() >= shown.items()
    again = await alice.key(rate_limits=made["rate_limits"])
    assert again["rate_limits"] == made["rate_limits"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"daily_requests": 7}, [("daily_requests", "day", 7, "requests", "UTC")]),
        (
            {"period": "month", "limit": 9, "unit": "tokens", "time_zone": "Europe/Berlin"},
            [("monthly_tokens", "month", 9, "tokens", "Europe/Berlin")],
        ),
        (
            [{"monthly_requests": 5}, {"period": "day", "limit": 2, "name": "daily"}],
            [("monthly_requests", "month", 5, "requests", "UTC"), ("daily", "day", 2, "requests", "UTC")],
        ),
        (None, []),
    ],
)
async def test_every_form_of_a_quota_is_shown_in_its_long_form_which_can_be_sent_back(
    alice: Tenant, given: Any, shown: list[tuple[Any, ...]]
) -> None:
    made = await alice.key(quota=given)
    found = [(q["name"], q["period"], q["limit"], q["unit"], q["time_zone"]) for q in made["quotas"]]
    assert found == shown
    again = await alice.key(quota=made["quotas"])
    assert again["quotas"] == made["quotas"]


@pytest.mark.parametrize(
    "quota",
    [
        {},
        5,
        "500/month",
        {"monthly_requests": 0},
        {"monthly_requests": 5, "unit": "tokens"},
        {"period": "week", "limit": 5},
        {"period": "day", "limit": 5, "time_zone": "Mars"},
        [{"monthly_requests": 5}, {"monthly_requests": 6}],
        [5],
    ],
)
async def test_a_quota_that_cannot_be_used_is_named(alice: Tenant, quota: Any) -> None:
    problem = await alice.problem(422, "invalid_limit", "POST", "/v1/keys", {"name": "k", "quota": quota})
    assert problem["errors"][0]["pointer"].startswith("/quota")


async def test_one_limit_and_a_list_of_them_at_once_is_refused(alice: Tenant) -> None:
    body = {"name": "k", "rate_limit": "1/second", "rate_limits": ["1/second"]}
    await alice.problem(422, "invalid_limit", "POST", "/v1/keys", body)


async def test_a_rate_limit_can_not_have_the_name_of_a_quota(alice: Tenant) -> None:
    limits = [{"strategy": "fixed_window", "requests": 1, "window_seconds": 1, "name": "monthly_requests"}]
    body = {"name": "k", "rate_limits": ["1/second", *limits], "quota": {"monthly_requests": 5}}
    problem = await alice.problem(422, "invalid_limit", "POST", "/v1/keys", body)
    assert [error["pointer"] for error in problem["errors"]] == ["/rate_limits/1/name"]
    made = await alice.key(rate_limits=limits)
    path = f"/v1/keys/{made['id']}"
    problem = await alice.problem(422, "invalid_limit", "PATCH", path, {"quota": {"monthly_requests": 5}})
    assert [error["pointer"] for error in problem["errors"]] == ["/quota"]
    await alice.ok("PATCH", path, {"quota": {"daily_requests": 5}})
    problem = await alice.problem(
        422, "invalid_limit", "PATCH", path, {"rate_limits": [{**limits[0], "name": "daily_requests"}]}
    )
    assert [error["pointer"] for error in problem["errors"]] == ["/rate_limits/0/name"]


async def test_what_is_wrong_with_the_one_limit_that_was_sent_is_named_as_it_was_sent(alice: Tenant) -> None:
    limit = {"strategy": "fixed_window", "requests": 1, "window_seconds": 1, "name": "monthly_requests"}
    body = {"rate_limit": limit, "quota": {"monthly_requests": 5}}
    made = await alice.key()
    for method, path, sent in (
        ("POST", "/v1/keys", body | {"name": "k"}),
        ("PATCH", f"/v1/keys/{made['id']}", body),
    ):
        problem = await alice.problem(422, "invalid_limit", method, path, sent)
        assert [error["pointer"] for error in problem["errors"]] == ["/rate_limit/name"]
        assert problem["detail"].startswith("rate_limit.name: ")
    item = body | {"name": "k", "key": "g" * 24}
    imported = await alice.ok("POST", "/v1/keys/import", {"keys": [item]})
    assert [error["pointer"] for error in imported["results"][0]["errors"]] == ["/rate_limit/name"]
    problem = await alice.problem(
        422, "validation_failed", "POST", "/v1/keys", {"name": "k", "kind": "service", "rate_limit": "1/second"}
    )
    assert [error["pointer"] for error in problem["errors"]] == ["/rate_limit"]


async def test_two_limits_of_one_name_are_refused(alice: Tenant) -> None:
    limit = {"strategy": "fixed_window", "requests": 1, "window_seconds": 1, "name": "same"}
    problem = await alice.problem(422, "invalid_limit", "POST", "/v1/keys", {"name": "k", "rate_limits": [limit] * 2})
    assert problem["errors"][0]["pointer"] == "/rate_limits/1/name"


async def test_a_service_key_has_no_scopes_and_no_limits(alice: Tenant) -> None:
    made = await alice.key(kind="service")
    assert (made["kind"], made["scopes"]) == ("service", [])
    for field in ({"scopes": ["read"]}, {"rate_limit": "1/second"}, {"quota": {"monthly_requests": 5}}):
        response = await alice.ask("POST", "/v1/keys", {"name": "k", "kind": "service", **field})
        assert response.status_code == 422


async def test_a_service_key_asks_for_verdicts_and_a_callers_key_does_not(service: Service, alice: Tenant) -> None:
    made = await alice.key(kind="service")
    await Caller(service.client, made["key"]).ok("POST", "/v1/check", {})
    caller = await alice.key()
    assert (await Caller(service.client, caller["key"]).ask("POST", "/v1/check", {})).status_code == 401


async def test_a_test_key_says_so_in_its_prefix(alice: Tenant) -> None:
    assert (await alice.key(environment="test"))["key"].startswith("sk_test_")


async def test_keys_are_found_by_status_customer_and_text(service: Service, alice: Tenant) -> None:
    customer = await alice.ok("POST", "/v1/customers", {"name": "Acme"}, status=201)
    service.clock.advance(1)
    active = await alice.key(name="alpha one", customer_id=customer["id"])
    disabled = await alice.key(name="beta", enabled=False)
    expired = await alice.key(name="gamma", expires_at="2026-11-18T11:10:00Z")
    revoked = await alice.key(name="delta 100%")
    await alice.ok("POST", f"/v1/keys/{revoked['id']}/revoke")
    service.clock.advance(3600)

    async def found(query: str) -> list[str]:
        return [key["id"] for key in (await alice.ok("GET", f"/v1/keys?{query}"))["data"]]

    assert await found("status=disabled") == [disabled["id"]]
    assert await found("status=expired") == [expired["id"]]
    assert await found("status=revoked") == [revoked["id"]]
    assert await found("status=active") == [active["id"], alice.service_key_id]
    assert await found(f"customer_id={customer['id']}") == [active["id"]]
    assert await found("q=ALPHA") == [active["id"]]
    assert await found("q=100%25") == [revoked["id"]]
    assert await found(f"q={disabled['id']}") == [disabled["id"]]
    assert await found("q=nothing") == []


async def test_pages_hold_every_key_once_while_others_are_made(service: Service, alice: Tenant) -> None:
    made = {(await alice.key(name=f"{number}"))["id"] for number in range(7)} | {alice.service_key_id}
    seen: list[str] = []
    path: str | None = "/v1/keys?limit=3"
    while path is not None:
        page = await alice.ok("GET", path)
        seen += [key["id"] for key in page["data"]]
        service.clock.advance(1)
        await alice.key(name="later")
        path = f"/v1/keys?limit=3&cursor={page['next_cursor']}" if page["has_more"] else None
    assert len(seen) == len(set(seen))
    assert set(seen) == made


@pytest.mark.parametrize("cursor", ["x", "a2V5czo", "%2B%2B", "dG9rZW5zOnRva194", "é"])
async def test_a_cursor_that_no_list_gave_is_422(alice: Tenant, cursor: str) -> None:
    response = await alice.ask("GET", f"/v1/keys?cursor={cursor}")
    if response.status_code != 200:  # a place that no longer is one is still a place
        assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")
    await alice.problem(422, "invalid_cursor", "GET", "/v1/keys?cursor=nonsense")


async def test_a_change_changes_what_it_names_and_nothing_else(service: Service, alice: Tenant) -> None:
    made = await alice.key(rate_limit="5/minute", quota={"monthly_requests": 5}, metadata={"a": 1})
    service.clock.advance(1)
    changed = await alice.ok("PATCH", f"/v1/keys/{made['id']}", {"name": "Renamed"})
    del made["key"]
    assert changed == made | {"name": "Renamed", "updated_at": "2026-11-18T11:06:41Z"}


async def test_null_clears_what_may_be_empty_and_is_refused_elsewhere(alice: Tenant) -> None:
    made = await alice.key(rate_limit="5/minute", quota={"monthly_requests": 5}, expires_at="2027-01-01T00:00:00Z")
    cleared = await alice.ok(
        "PATCH", f"/v1/keys/{made['id']}", {"rate_limit": None, "quota": None, "expires_at": None, "customer_id": None}
    )
    assert (cleared["rate_limits"], cleared["rate_limit"], cleared["quota"], cleared["expires_at"]) == (
        [],
        None,
        None,
        None,
    )
    for field in ("name", "scopes", "enabled", "metadata", "allowed_ips", "rate_limits"):
        response = await alice.ask("PATCH", f"/v1/keys/{made['id']}", {field: None})
        assert response.status_code == 422, field


async def test_changed_numbers_keep_what_was_used(alice: Tenant) -> None:
    made = await alice.key(rate_limit="5/minute")
    for _ in range(3):
        assert (await check(alice, made["key"]))["allowed"]
    await alice.ok("PATCH", f"/v1/keys/{made['id']}", {"rate_limit": "4/minute"})
    assert [(await check(alice, made["key"]))["allowed"] for _ in range(2)] == [True, False]


async def test_kind_and_environment_are_for_ever(alice: Tenant) -> None:
    made = await alice.key()
    for change in ({"kind": "service"}, {"environment": "test"}, {"key": "x"}, {"status": "active"}):
        await alice.problem(422, "validation_failed", "PATCH", f"/v1/keys/{made['id']}", change)


async def test_disabling_revoking_and_expiring_act_at_once(service: Service, alice: Tenant) -> None:
    made = await alice.key(expires_at="2026-11-18T12:00:00Z")
    path = f"/v1/keys/{made['id']}"
    await alice.ok("PATCH", path, {"enabled": False})
    assert (await check(alice, made["key"]))["code"] == "key_disabled"
    await alice.ok("PATCH", path, {"enabled": True})
    assert (await check(alice, made["key"]))["code"] == "ok"
    await service.later(3600)
    assert (await check(alice, made["key"]))["code"] == "key_expired"
    await alice.ok("PATCH", path, {"expires_at": None})
    assert (await check(alice, made["key"]))["code"] == "ok"
    revoked = await alice.ok("POST", f"{path}/revoke")
    assert revoked["status"] == "revoked"
    assert (await check(alice, made["key"]))["code"] == "key_revoked"
    assert await alice.ok("POST", f"{path}/revoke") == revoked
    await alice.ok("DELETE", path, status=204)
    await alice.problem(409, "conflict", "PATCH", path, {"enabled": True})
    assert (await alice.ok("GET", path))["status"] == "revoked"


async def test_rotation_gives_a_new_secret_and_the_old_one_works_for_the_grace(service: Service, alice: Tenant) -> None:
    made = await alice.key()
    rotated = await alice.ok("POST", f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 60})
    assert rotated["id"] == made["id"]
    assert rotated["key"] != made["key"]
    assert rotated["previous_expires_at"] == "2026-11-18T11:07:40Z"
    assert (await check(alice, made["key"]))["allowed"]
    await service.later(60)
    assert (await check(alice, made["key"]))["code"] == "key_expired"
    assert (await check(alice, rotated["key"]))["allowed"]


async def test_rotation_without_a_body_has_no_grace(alice: Tenant) -> None:
    made = await alice.key()
    rotated = await alice.ok("POST", f"/v1/keys/{made['id']}/rotate")
    assert not (await check(alice, made["key"]))["allowed"]
    assert (await check(alice, rotated["key"]))["allowed"]


async def test_grace_never_outlives_the_key(alice: Tenant) -> None:
    made = await alice.key(expires_at="2026-11-18T11:10:00Z")
    rotated = await alice.ok("POST", f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 604_800})
    assert rotated["previous_expires_at"] == "2026-11-18T11:10:00Z"


@pytest.mark.parametrize("grace", [-1, 604_801, "60", 1.5, None, True])
async def test_a_grace_that_cannot_be_is_422(alice: Tenant, grace: Any) -> None:
    made = await alice.key()
    path = f"/v1/keys/{made['id']}/rotate"
    await alice.problem(422, "validation_failed", "POST", path, {"grace_seconds": grace})


async def test_usage_shows_where_limits_and_quotas_stand_and_charges_nothing(alice: Tenant) -> None:
    made = await alice.key(rate_limit="5/minute", quota={"monthly_requests": 100})
    for _ in range(6):
        await check(alice, made["key"])
    path = f"/v1/keys/{made['id']}/usage"
    usage = await alice.ok("GET", path)
    assert usage == await alice.ok("GET", path)
    assert usage["key_id"] == made["id"]
    limit = usage["rate_limits"][0]
    assert (limit["name"], limit["strategy"], limit["limit"], limit["used"], limit["remaining"]) == (
        "default",
        "sliding_window",
        5,
        5,
        0,
    )
    assert limit["window_seconds"] == 60
    assert 0 < limit["reset_seconds"] <= 60.06
    assert usage["quota"] == {
        "name": "monthly_requests",
        "period": "2026-11",
        "unit": "requests",
        "limit": 100,
        "used": 5,
        "remaining": 95,
        "resets_at": "2026-12-01T00:00:00Z",
    }
    assert usage["totals"] == {"today": 6, "this_month": 6, "allowed": 5, "refused": 1}


async def test_resetting_the_limits_forgets_them_keeps_the_quota_and_is_audited(alice: Tenant) -> None:
    made = await alice.key(rate_limit="2/minute", quota={"monthly_requests": 100})
    assert [(await check(alice, made["key"]))["allowed"] for _ in range(3)] == [True, True, False]
    await alice.ok("POST", f"/v1/keys/{made['id']}/limits/reset", status=204)
    assert (await check(alice, made["key"]))["allowed"]
    assert (await alice.ok("GET", f"/v1/keys/{made['id']}/usage"))["quota"]["used"] == 3
    entries = (await alice.ok("GET", f"/v1/audit-log?target={made['id']}"))["data"]
    assert entries[0]["action"] == "key.limits_reset"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"name": "x"}),
        ("DELETE", "", None),
        ("POST", "/revoke", None),
        ("POST", "/rotate", None),
        ("GET", "/usage", None),
        ("POST", "/limits/reset", None),
    ],
)
async def test_a_key_that_never_was_is_404(alice: Tenant, method: str, path: str, body: Any) -> None:
    await alice.problem(404, "not_found", method, f"/v1/keys/{NEVER}{path}", body)


async def test_two_creates_at_once_make_two_keys_that_both_work(alice: Tenant) -> None:
    made = await asyncio.gather(*(alice.key(name="same") for _ in range(10)))
    assert len({key["id"] for key in made}) == 10
    assert len({key["key"] for key in made}) == 10
    assert all([(await check(alice, key["key"]))["allowed"] for key in made])
