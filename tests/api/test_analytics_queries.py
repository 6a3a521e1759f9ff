"""Analytics over HTTP: what was checked and reported a moment ago is in every answer, and in the tenant's own only."""

from __future__ import annotations

from typing import Any

import pytest

from apishield.services import ledger_names
from tests.api.support import Caller, Json, Service, Tenant


async def check(tenant: Tenant, **question: Any) -> Json:
    decision: Json = await Caller(tenant.client, tenant.service_key).ok("POST", "/v1/check", question)
    return decision


async def report(tenant: Tenant, decision: Json, **result: Any) -> None:
    event = {"decision_id": decision["decision_id"], "status": 200, "latency_ms": 20, **result}
    told = await Caller(tenant.client, tenant.service_key).ok("POST", "/v1/report", {"events": [event]}, status=202)
    assert told["accepted"] == 1


async def ask(tenant: Caller, path: str, **parameters: Any) -> Json:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    found: Json = await tenant.ok("GET", f"/v1/analytics/{path}?{query}")
    return found


@pytest.fixture
async def busy(service: Service, alice: Tenant) -> Json:
    """A key with three requests, one slow and one failing, and a fourth that is refused; and a caller without a key."""
    customer = await alice.ok("POST", "/v1/customers", {"name": "Initech", "external_id": "c-1"}, status=201)
    key = await alice.key(name="Busy", rate_limit="3/hour", customer_id=customer["id"])
    asked = {"api_key": key["key"], "method": "GET", "country": "DE", "ip": "203.0.113.7"}
    slow = await check(alice, **asked, path="/orders/17", cost={"requests": 1, "tokens": 40})
    failed = await check(alice, **asked, path="/orders/18")
    await check(alice, **asked, path="/things")
    await check(alice, **asked, path="/things")
    await check(alice, method="POST", path="/login", ip="203.0.113.8")
    await report(alice, slow, latency_ms=100, bytes=512)
    await report(alice, failed, status=503)
    return {"key": key, "customer": customer, "slow": slow}


async def test_a_summary_tells_everything_of_a_moment_ago(busy: Json, alice: Tenant) -> None:
    found = await ask(alice, "summary")
    assert (found["requests"], found["allowed"], found["refused"]) == (5, 4, 1)
    assert found["refused_by_code"] == {"rate_limited": 1}
    assert (found["results"], found["errors"], found["error_rate"]) == (2, 1, 0.5)
    assert found["statuses"] == {"1xx": 0, "2xx": 1, "3xx": 0, "4xx": 1, "5xx": 1}
    assert found["latency"]["p50"] == pytest.approx(20, rel=0.01)
    assert found["latency"]["p99"] == pytest.approx(100, rel=0.01)
    assert found["cost"] == {"requests": 4, "tokens": 40}
    assert found["bytes"] == 512
    assert found["active_keys"] == 1
    assert found["resolution"] == "minute"
    assert found["previous"]["requests"] == 0
    assert found["change"]["requests"] is None


async def test_the_previous_period_is_the_one_right_before(service: Service, busy: Json, alice: Tenant) -> None:
    await service.later(90 * 60)
    await check(alice, method="GET", path="/", ip="203.0.113.9")
    found = await ask(alice, "summary", **{"from": "now-1h"})
    assert (found["requests"], found["previous"]["requests"]) == (1, 5)
    assert found["change"]["requests"] == -80
    assert found["previous"]["to"] == found["from"]


@pytest.mark.parametrize(
    ("filters", "requests"),
    [
        ({"endpoint": "/orders/{id}"}, 2),
        ({"method": "POST"}, 1),
        ({"method": "get"}, 4),
        ({"country": "de"}, 4),
        ({"outcome": "allowed"}, 4),
        ({"outcome": "limited"}, 1),
        ({"outcome": "rate_limited"}, 1),
        ({"outcome": "blocked"}, 0),
        ({"status": "5xx"}, 1),
        ({"endpoint": "/things", "country": "DE", "outcome": "refused"}, 1),
        ({"environment": "test"}, 0),
        ({"key_id": "key_nobody"}, 0),
        ({"from": "now-2h", "to": "now-1h"}, 0),
        ({"from": "now", "to": "now"}, 0),
        ({"from": "now%2B1h", "to": "now%2B2d"}, 0),
        ({"from": "now-1h", "to": "now%2B30d"}, 5),
        ({"from": "2026-11-18", "time_zone": "Europe/Berlin"}, 5),
    ],
)
async def test_filters_and_periods_say_what_is_counted(
    busy: Json, alice: Tenant, filters: dict[str, str], requests: int
) -> None:
    assert (await ask(alice, "summary", **filters))["requests"] == requests
    series = await ask(alice, "timeseries", **filters)
    assert sum(point["requests"] for point in series["series"][0]["points"]) == requests


async def test_a_class_of_status_has_counts_and_nothing_that_is_not_known_of_it(busy: Json, alice: Tenant) -> None:
    found = await ask(alice, "summary", status="4xx")
    assert (found["requests"], found["allowed"], found["refused"]) == (1, 0, 1)
    assert found["cost"] is found["statuses"] is found["error_rate"] is found["latency"]["p50"] is None


async def test_breakdowns_name_what_they_are_of(busy: Json, alice: Tenant) -> None:
    endpoints = await ask(alice, "endpoints")
    assert [(row["endpoint"], row["method"], row["requests"]) for row in endpoints["data"]] == [
        ("/orders/{id}", "GET", 2),
        ("/things", "GET", 2),
        ("/login", "POST", 1),
    ]
    assert (await ask(alice, "endpoints", order="error_rate"))["data"][0]["error_rate"] == 0.5
    assert (await ask(alice, "endpoints", order="p95"))["data"][0]["endpoint"] == "/orders/{id}"
    keys = (await ask(alice, "keys"))["data"]
    assert [(row["key_id"], row["name"], row["customer_id"], row["requests"]) for row in keys] == [
        (busy["key"]["id"], "Busy", busy["customer"]["id"], 4),
        (None, None, None, 1),
    ]
    customers = (await ask(alice, "customers"))["data"]
    assert [(row["name"], row["external_id"], row["allowed"]) for row in customers] == [
        ("Initech", "c-1", 3),
        (None, None, 1),
    ]
    countries = (await ask(alice, "countries"))["data"]
    assert [(row["country"], row["refused"]) for row in countries] == [("DE", 1), (None, 0)]
    addresses = await ask(alice, "ips")
    assert addresses["data"] == [
        {"ip": "203.0.113.7", "requests": 4, "allowed": 3, "refused": 1},
        {"ip": "203.0.113.8", "requests": 1, "allowed": 1, "refused": 0},
    ]
    assert addresses["total"]["requests"] == 5


async def test_what_is_beside_the_top_is_told(busy: Json, alice: Tenant) -> None:
    for path in ("endpoints", "ips"):
        found = await ask(alice, path, limit=1)
        assert len(found["data"]) == 1
        assert found["other"]["requests"] == 5 - found["data"][0]["requests"]
    series = await ask(alice, "timeseries", group_by="endpoint", limit=2)
    assert len(series["series"]) == 2
    assert sum(point["requests"] for point in series["other"]) == 1
    assert (await ask(alice, "timeseries", group_by="endpoint"))["other"] is None


async def test_what_has_no_series_of_its_own_is_one_row_wherever_sums_are_shown(
    alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_names, "ENDPOINTS_PER_TENANT", 2)
    for number, path in enumerate(("/first", "/first", "/second", "/third", "/fourth", "/fifth")):
        await check(alice, method="GET" if number else "PURGE", path=path, ip="203.0.113.7")
    other = {"endpoint": "(other)"}
    endpoints = await ask(alice, "endpoints")
    assert [(row["endpoint"], row["method"], row["requests"]) for row in endpoints["data"]] == [
        ("(other)", "GET", 4),
        ("/first", "(other)", 1),
        ("/first", "GET", 1),
    ]
    first = await ask(alice, "endpoints", limit=1)
    assert ([row["endpoint"] for row in first["data"]], first["other"]["requests"]) == (["(other)"], 2)
    series = await ask(alice, "timeseries", group_by="endpoint", limit=1)
    assert series["series"][0]["group"]["endpoint"] == "(other)"
    assert sum(point["requests"] for point in series["series"][0]["points"]) == 4
    assert (await ask(alice, "summary", **other))["requests"] == 4
    assert (await ask(alice, "endpoints", **other))["total"]["requests"] == 4
    exported = await alice.ok("GET", "/v1/usage/export?format=json&group_by=endpoint")
    assert {row["endpoint"]: row["requests"] for row in exported if row["method"] == "GET"} == {
        "(other)": 4,
        "/first": 1,
    }
    for method in ("(other)", "other", "OTHER"):
        assert (await ask(alice, "summary", method=method))["requests"] == 1
        assert [row["path"] for row in (await ask(alice, "requests", method=method))["data"]] == ["/first"]
    for name in ("endpoint", "key_id", "customer_id"):
        problem = await alice.problem(422, "validation_failed", "GET", f"/v1/analytics/requests?{name}=(other)")
        assert [fault["pointer"] for fault in problem["errors"]] == [f"?{name}"]


async def test_days_of_a_time_zone_begin_at_its_midnight(busy: Json, alice: Tenant) -> None:
    found = await ask(alice, "timeseries", step="day", time_zone="Asia/Kolkata", **{"from": "now-2d"})
    assert [point["at"] for point in found["series"][0]["points"]] == [
        "2026-11-15T18:30:00Z",
        "2026-11-16T18:30:00Z",
        "2026-11-17T18:30:00Z",
    ]
    assert [point["requests"] for point in found["series"][0]["points"]] == [0, 0, 5]


@pytest.mark.parametrize(
    ("days", "asked", "time_zone", "kept", "at"),
    [
        (10, "minute", "UTC", "hour", "2026-11-18T11:00:00Z"),
        (10, "minute", "Asia/Kolkata", "hour", "2026-11-18T11:00:00Z"),
        (10, "hour", "Asia/Kolkata", "hour", "2026-11-18T11:00:00Z"),
        (100, "minute", "UTC", "day", "2026-11-18T00:00:00Z"),
        (100, "hour", "UTC", "day", "2026-11-18T00:00:00Z"),
        (100, "hour", "Asia/Kolkata", "day", "2026-11-17T18:30:00Z"),  # the day of that date
    ],
)
async def test_a_step_that_is_not_kept_any_more_is_answered_by_the_one_that_is(
    service: Service, busy: Json, alice: Tenant, days: int, asked: str, time_zone: str, kept: str, at: str
) -> None:
    await service.later(days * 86_400)
    found = await ask(alice, "timeseries", step=asked, time_zone=time_zone, **{"from": f"now-{days + 1}d"})
    assert found["step"] == kept
    assert [(point["at"], point["requests"]) for point in found["series"][0]["points"] if point["requests"]] == [
        (at, 5)
    ]


async def test_nobody_sees_another_tenants_figures(service: Service, busy: Json, alice: Tenant, bob: Tenant) -> None:
    for path in ("summary", "timeseries", "endpoints", "keys", "customers", "countries", "ips", "requests"):
        for query in ("", f"?key_id={busy['key']['id']}"):
            text = (await bob.ask("GET", f"/v1/analytics/{path}{query}")).text
            assert "Busy" not in text
            assert "203.0.113.7" not in text
    assert (await ask(bob, "summary"))["requests"] == 0
    for_alice = service.operator.acting(**{"X-APIShield-Tenant": alice.id})
    assert (await ask(for_alice, "summary"))["requests"] == 5


@pytest.mark.parametrize(
    ("path", "parameter", "value"),
    [
        ("summary", "from", "yesterday"),
        ("summary", "from", "2026-02-30T00:00:00Z"),
        ("summary", "from", "now%2B1h"),
        ("summary", "from", "now-4000d"),
        ("summary", "to", "1969-12-31T00:00:00Z"),
        ("summary", "to", "2026-11-18T00:00:00"),
        ("summary", "outcome", "fine"),
        ("summary", "status", "404"),
        ("summary", "status", "6xx"),
        ("summary", "environment", "staging"),
        ("summary", "time_zone", "Mars/Olympus"),
        ("summary", "time_zone", "../etc/passwd"),
        ("summary", "key_id", ""),
        ("summary", "endpoint", "x" * 300),
        ("summary", "colour", "blue"),
        ("timeseries", "step", "second"),
        ("timeseries", "group_by", "ip"),
        ("timeseries", "limit", "0"),
        ("endpoints", "order", "name"),
        ("endpoints", "limit", "1000"),
        ("ips", "ip", "203.0.113.7"),
        ("ips", "status", "404"),
        ("ips", "endpoint", "(other)"),
        ("requests", "status", "999"),
        ("requests", "ip", "localhost"),
        ("requests", "limit", "many"),
    ],
)
async def test_every_parameter_that_cannot_be_used_is_named(
    alice: Tenant, path: str, parameter: str, value: str
) -> None:
    problem = await alice.problem(422, "validation_failed", "GET", f"/v1/analytics/{path}?{parameter}={value}")
    assert [fault["pointer"] for fault in problem["errors"]] == [f"?{parameter}"]


async def test_more_points_than_a_chart_can_show_are_refused(alice: Tenant) -> None:
    problem = await alice.problem(422, "validation_failed", "GET", "/v1/analytics/timeseries?step=minute&from=now-2d")
    assert problem["errors"][0]["pointer"] == "?step"


async def test_two_faults_are_told_at_once(alice: Tenant) -> None:
    problem = await alice.problem(422, "validation_failed", "GET", "/v1/analytics/summary?from=x&outcome=y")
    assert [fault["pointer"] for fault in problem["errors"]] == ["?from", "?outcome"]
