"""What policies do to checks, end to end: precedence, overrides and their expiry, attributes, units, all or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.support import Caller, Json, Service, Tenant


async def check(tenant: Tenant, **question: Any) -> Json:
    decision: Json = await Caller(tenant.client, tenant.service_key).ok("POST", "/v1/check", question)
    return decision


async def admitted(tenant: Tenant, times: int, **question: Any) -> int:
    """How many of so many checks were allowed."""
    return sum([(await check(tenant, **question))["allowed"] for _ in range(times)])


async def policy(tenant: Tenant, **fields: Any) -> Json:
    made: Json = await tenant.ok("POST", "/v1/policies", {"name": "p", "limit": "2/minute", **fields}, status=201)
    return made


async def test_all_matching_limits_and_the_keys_own_decide_together_all_or_nothing(alice: Tenant) -> None:
    key = await alice.key(scopes=["read"], rate_limit="10/minute")
    await policy(alice, name="wide", per=["key"], limit="100/minute")
    await policy(alice, name="tight", per=["ip"], limit="3/minute")
    question = {"api_key": key["key"], "method": "GET", "path": "/x", "ip": "192.0.2.1"}
    assert await admitted(alice, 8, **question) == 3
    last = await check(alice, **question)
    assert {limit["name"]: limit["remaining"] for limit in last["limits"]} == {"tight": 0, "default": 7, "wide": 97}
    assert [limit["violated"] for limit in last["limits"]] == [True, False, False]  # the most restrictive first


async def test_an_override_is_exact_before_wildcard_before_the_policys_limit(alice: Tenant) -> None:
    first, second, third = [await alice.key(scopes=["read"]) for _ in range(3)]
    await policy(
        alice,
        per=["key", "ip"],
        overrides=[
            {"subject": {"key": first["id"], "ip": "192.0.2.1"}, "limit": "5/minute"},
            {"subject": {"key": first["id"], "ip": "*"}, "limit": "4/minute"},
            {"subject": {"key": second["id"]}, "limit": "1/minute"},
        ],
    )

    async def of(key: Json, ip: str) -> int:
        return await admitted(alice, 8, api_key=key["key"], method="GET", ip=ip)

    assert [await of(first, "192.0.2.1"), await of(first, "192.0.2.2"), await of(first, "192.0.2.3")] == [5, 4, 4]
    assert [await of(second, "192.0.2.1"), await of(third, "192.0.2.1")] == [1, 2]


async def test_an_override_ends_to_the_microsecond_and_what_was_used_stays_used(
    service: Service, alice: Tenant
) -> None:
    override = {"subject": {"ip": "2001:db8::1"}, "limit": "5/hour", "expires_at": "2026-11-18T11:16:40Z"}
    await policy(alice, per=["ip"], match={"path": "/x"}, limit="3/hour", overrides=[override])
    question = {"ip": "2001:db8::ffff", "method": "GET", "path": "/x"}
    assert await admitted(alice, 4, **question) == 4
    service.clock.advance(600 - 1e-6)
    await service.runtime.snapshot.catch_up()
    assert await admitted(alice, 2, **question) == 1
    service.clock.advance(1e-6)
    assert await admitted(alice, 2, **question) == 0


async def test_ten_thousand_overrides_are_kept_and_each_counts(alice: Tenant) -> None:
    overrides = [
        {"subject": {"ip": f"10.{number >> 8}.{number & 255}.1"}, "limit": "5/minute"} for number in range(10_000)
    ]
    made = await policy(alice, per=["ip"], limit="1/minute", overrides=overrides)
    assert len(made["overrides"]) == 10_000
    assert [await admitted(alice, 7, ip=ip) for ip in ("10.0.7.1", "10.39.15.1", "10.39.16.1")] == [5, 5, 1]
    problem = await alice.problem(
        422, "validation_failed", "PATCH", f"/v1/policies/{made['id']}", {"overrides": [*overrides, overrides[0]]}
    )
    assert problem["errors"][0]["pointer"] == "/overrides"


async def test_a_policy_matches_and_counts_by_attributes(alice: Tenant) -> None:
    await policy(alice, match={"attributes": {"tier": "free"}}, per=["attr:user_id"])

    async def of(**attributes: str) -> int:
        return await admitted(alice, 4, attributes=attributes)

    assert [await of(tier="free", user_id="u1"), await of(tier="free", user_id="u2")] == [2, 2]
    assert [await of(tier="paid", user_id="u1"), await of(tier="free")] == [4, 4]  # without a part it does not apply


@pytest.mark.parametrize(
    ("match", "applies"),
    [
        ({"caller": "key"}, True),
        ({"caller": "anonymous"}, False),
        ({"environment": "live"}, True),
        ({"environment": "test"}, False),
        ({"plan": "starter"}, True),
        ({"plan": "pro"}, False),
        ({"scopes": ["orders:read"]}, True),
        ({"scopes": ["orders:read", "admin"]}, False),
        ({"methods": ["POST", "GET", "GET"]}, True),
        ({"methods": ["POST"]}, False),
        ({"path": "/orders/{id}"}, True),
        ({"path": "/orders"}, False),
    ],
)
async def test_a_policy_applies_where_all_that_it_matches_by_fits(alice: Tenant, match: Json, applies: bool) -> None:
    key = await alice.key(scopes=["read", "orders:*"])
    await policy(alice, match=match, per=["tenant"], limit="1/minute")
    assert await admitted(alice, 3, api_key=key["key"], method="GET", path="/orders/7") == (1 if applies else 3)


async def test_five_limits_of_two_units_are_one_verdict(alice: Tenant) -> None:
    def per(seconds: int, requests: int, unit: str) -> Json:
        return {"strategy": "sliding_window", "requests": requests, "window_seconds": seconds, "unit": unit}

    limits = [per(1, 10, "requests"), per(60, 100, "requests"), per(60, 1000, "tokens")]
    key = await alice.key(scopes=["write"], rate_limits=limits)
    await policy(alice, name="day", per=["tenant"], limit=per(86_400, 10_000, "tokens"))
    await policy(alice, name="bytes", per=["key"], limit={**per(60, 5, "requests"), "strategy": "fixed_window"})
    question = {"api_key": key["key"], "method": "POST", "cost": {"requests": 1, "tokens": 400}}
    answers = [await check(alice, **question) for _ in range(3)]
    assert [answer["allowed"] for answer in answers] == [True, True, False]
    assert sorted(limit["remaining"] for limit in answers[-1]["limits"]) == [3, 8, 98, 200, 9200]


async def test_a_changed_algorithm_starts_anew_and_changed_numbers_do_not(alice: Tenant) -> None:
    made = await policy(alice, per=["ip"], limit="3/hour")
    question = {"ip": "192.0.2.1"}
    assert await admitted(alice, 5, **question) == 3
    for limit, expected in (("5/hour", 2), ("4/hour", 0), ("4/hour fixed", 4), ("5/hour burst 5", 5)):
        await alice.ok("PATCH", f"/v1/policies/{made['id']}", {"limit": limit})
        assert await admitted(alice, 6, **question) == expected, limit


async def test_every_bad_number_is_422_by_its_field(alice: Tenant) -> None:
    window = {"strategy": "sliding_window", "requests": 5, "window_seconds": 60}
    bucket = {**window, "strategy": "token_bucket"}
    faulty: list[tuple[Json, str]] = [
        *(({**window, "requests": bad}, "requests") for bad in (0, -1, 1.5, 10**9 + 1, 2**62, "5", True, None)),
        *(({**window, "window_seconds": bad}, "window_seconds") for bad in (0, -1, 0.5, 3_155_760_000, "60")),
        *(({**bucket, "burst": bad}, "burst") for bad in (0, -1, 0.5, 10**9 + 1)),
        ({**window, "burst": 5}, "burst"),
    ]
    for limit, field in faulty:
        body: Json = {"name": "bad", "per": ["ip"], "limit": limit}
        problem = await alice.problem(422, "invalid_limit", "POST", "/v1/policies", body)
        assert [error["pointer"] for error in problem["errors"]] == [f"/limit/{field}"], limit
        override = {"subject": {"ip": "192.0.2.1"}, "limit": limit}
        body = {"name": "bad", "per": ["ip"], "limit": "1/minute", "overrides": [override]}
        problem = await alice.problem(422, "invalid_limit", "POST", "/v1/policies", body)
        assert [error["pointer"] for error in problem["errors"]] == [f"/overrides/0/limit/{field}"], limit


async def test_a_bucket_may_hold_less_than_a_windows_refill(alice: Tenant) -> None:
    bucket = {"strategy": "token_bucket", "requests": 60, "window_seconds": 60, "burst": 1}
    await policy(alice, per=["ip"], limit=bucket)
    assert await admitted(alice, 3, ip="192.0.2.1") == 1


async def test_what_holds_for_all_below_a_path_holds_for_the_path_with_a_slash(alice: Tenant) -> None:
    key = await alice.key(scopes=["read"])
    await policy(alice, match={"path": "/files/*"}, per=["key"])
    question = {"api_key": key["key"], "method": "GET", "path": "/files/"}
    assert await admitted(alice, 4, **question) == 2
    endpoint = {"method": "GET", "path": "/files/*", "required_scopes": ["files:read"]}
    await alice.ok("POST", "/v1/endpoints", endpoint, status=201)
    assert (await check(alice, **question))["code"] == "scope_missing"


async def test_a_path_that_holds_up_checks_is_refused_when_it_is_written(alice: Tenant) -> None:
    for path in ("/{x}" * 9, "/" + "*a" * 200, "/a" * 33):
        faults = {"name": "p", "limit": "2/minute", "per": ["key"], "match": {"path": path}}
        await alice.problem(422, "validation_failed", "POST", "/v1/policies", faults)
        await alice.problem(422, "validation_failed", "POST", "/v1/endpoints", {"method": "GET", "path": path})
