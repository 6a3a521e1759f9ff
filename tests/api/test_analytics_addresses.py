"""Where checks came from: of all of a tenant's traffic from sums, of a part of it from the decisions, as far as they reach."""

from __future__ import annotations

import pytest

from apishield.services.analytics import addresses
from apishield.services.analytics.places import Queues
from tests.api.support import Json, Service, Tenant
from tests.api.test_analytics_queries import ask, check, report

ONE, OTHER, SIXTH = "203.0.113.7", "203.0.113.8", "2001:db8:0:1::1"
HOUR_S, DAY_S = 3600, 86_400


@pytest.fixture
async def busy(alice: Tenant) -> Json:
    """A key that is used from two addresses and then refused; a caller without one, from both addresses of a network."""
    customer = await alice.ok("POST", "/v1/customers", {"name": "Initech"}, status=201)
    key = await alice.key(rate_limit="3/hour", customer_id=customer["id"])
    asked = {"api_key": key["key"], "method": "GET", "country": "DE"}
    failed = await check(alice, **asked, path="/orders/17", ip=ONE)
    await check(alice, **asked, path="/orders/18", ip=ONE)
    await check(alice, **asked, path="/things", ip=OTHER)
    await check(alice, **asked, path="/things", ip=ONE)
    await check(alice, method="POST", path="/login", ip=SIXTH)
    await check(alice, method="POST", path="/login", ip="2001:db8:0:1::2")
    await check(alice, method="POST", path="/login")
    await check(alice, method="GET", path="/", ip=OTHER, cost=0)
    await report(alice, failed, status=503)
    return {"key_id": key["id"], "customer_id": customer["id"]}


def rows(found: Json) -> dict[str, tuple[int, int]]:
    return {row["ip"]: (row["allowed"], row["refused"]) for row in found["data"]}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"endpoint": "/orders/{id}"}, {ONE: (2, 0)}),
        ({"method": "post"}, {"2001:db8:0:1::/64": (2, 0)}),
        ({"outcome": "refused"}, {ONE: (0, 1)}),
        ({"outcome": "limited", "country": "de"}, {ONE: (0, 1)}),
        ({"status": "5xx"}, {ONE: (1, 0)}),
        ({"status": "4xx"}, {ONE: (0, 1)}),
        ({"country": "DE", "endpoint": "/things"}, {OTHER: (1, 0), ONE: (0, 1)}),
        ({"key_id": "key_nobody"}, {}),
        ({"environment": "test"}, {}),
        ({"outcome": "allowed", "to": "now-1h"}, {}),
    ],
)
async def test_every_filter_says_whose_addresses_are_counted(
    busy: Json, alice: Tenant, filters: dict[str, str], expected: dict[str, tuple[int, int]]
) -> None:
    found = await ask(alice, "ips", **filters)
    assert rows(found) == expected
    assert found["complete"] is True
    assert found["total"]["requests"] == sum(map(sum, expected.values()))
    assert found["other"] is None


async def test_addresses_of_one_key_or_customer(busy: Json, alice: Tenant) -> None:
    for name, value in busy.items():
        found = await ask(alice, "ips", **{name: value, "limit": 1})
        assert rows(found) == {ONE: (2, 1)}
        assert found["total"] == {"requests": 4, "allowed": 3, "refused": 1}
        assert found["other"] == {"requests": 1, "allowed": 1, "refused": 0}
        assert found["resolution"] == "minute"


async def test_minutes_are_counted_as_they_are_and_long_periods_by_whole_hours(
    service: Service, busy: Json, alice: Tenant
) -> None:
    await service.later(20 * 60)
    await check(alice, method="GET", path="/", ip=OTHER)
    for last_minutes in ("5m", "10m"):
        found = await ask(alice, "ips", **{"from": f"now-{last_minutes}"})
        assert rows(found) == {OTHER: (1, 0)}
        assert (found["resolution"], found["complete"]) == ("minute", True)
    whole = {ONE: (2, 1), OTHER: (2, 0), "2001:db8:0:1::/64": (2, 0)}
    assert rows(await ask(alice, "ips", **{"from": "now-30m"})) == whole
    for period in ({"from": "now-24h"}, {"from": "2026-11-18T11:00:00Z"}, {"to": "2026-11-18T12:00:00Z"}):
        found = await ask(alice, "ips", **period)
        assert rows(found) == whole
        assert (found["resolution"], found["complete"]) == ("hour", True)


async def test_minutes_of_much_traffic_are_answered_by_the_hours_that_hold_them(
    service: Service, busy: Json, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.later(20 * 60)
    monkeypatch.setattr(addresses, "FEW", 6)
    found = await ask(alice, "ips", **{"from": "now-30m"})
    assert (found["resolution"], found["complete"], found["total"]["requests"]) == ("hour", True, 6)
    monkeypatch.setattr(addresses, "FEW", 7)
    assert (await ask(alice, "ips", **{"from": "now-30m"}))["resolution"] == "minute"
    await check(alice, method="GET", path="/", ip=OTHER, cost=0)
    monkeypatch.setattr(addresses, "MOST_COUNTED", 1)  # a check at cost 0 is looked at, though no sum has it
    found = await ask(alice, "ips", **{"from": "now-30m"})
    assert (found["resolution"], found["complete"]) == ("hour", True)


async def test_what_was_too_much_to_look_at_is_said(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "MOST_COUNTED", 4)
    for number in range(10):
        for _ in range(2):
            await check(alice, method="GET", path=f"/{number}", ip=f"203.0.113.{number}")
        await service.later(1)
    found = await ask(alice, "ips", method="GET")
    assert rows(found) == {"203.0.113.8": (2, 0), "203.0.113.9": (2, 0)}
    assert found["complete"] is False
    newest = (await ask(alice, "requests", limit=4))["data"]
    assert found["from"] == newest[-1]["at"]
    monkeypatch.setattr(addresses, "MOST_COUNTED", 3)  # of one moment all are counted
    assert (await ask(alice, "ips", method="GET"))["data"] == found["data"]
    monkeypatch.setattr(addresses, "MOST_COUNTED", 20)
    assert (await ask(alice, "ips", method="GET"))["complete"] is True


@pytest.mark.parametrize("filters", [{}, {"method": "GET"}])
async def test_what_is_not_kept_any_more_is_said(
    service: Service, busy: Json, alice: Tenant, filters: dict[str, str]
) -> None:
    await service.later(8 * DAY_S)
    await check(alice, method="GET", path="/", ip=OTHER)
    found = await ask(alice, "ips", **{"from": "now-9d", **filters})
    assert rows(found) == {OTHER: (1, 0)}
    assert (found["complete"], found["from"][:10]) == (False, "2026-11-19")
    await service.later(HOUR_S)
    assert (await ask(alice, "ips", **{"from": "now-6d", **filters}))["complete"] is True
    long_ago = await ask(alice, "ips", **{"from": "now-9d", "to": "now-8d", **filters})
    assert (long_ago["data"], long_ago["complete"], long_ago["from"]) == ([], False, long_ago["to"])


async def test_looks_at_a_tenants_decisions_are_bounded(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = Queues("looks at single decisions", at_once=1, waiting=0)
    monkeypatch.setattr(service.runtime.decisions, "_scans", queues)
    async with queues.admitted(alice.id):
        await alice.problem(429, "concurrency_exceeded", "GET", "/v1/analytics/ips?method=GET")
        await alice.ok("GET", "/v1/analytics/ips")
