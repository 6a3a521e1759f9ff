"""The blocklist and the allowlist over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.support import Caller, Json, Service, Tenant


async def code(tenant: Tenant, ip: str) -> str:
    asker = Caller(tenant.client, tenant.service_key)
    return str((await asker.ok("POST", "/v1/check", {"ip": ip, "method": "GET", "path": "/"}))["code"])


async def test_a_block_of_an_hour_holds_for_an_hour(service: Service, alice: Tenant) -> None:
    made = await alice.ok(
        "POST", "/v1/blocklist", {"ip": "1.2.3.4", "reason": "scraping", "duration_seconds": 3600}, status=201
    )
    assert made == {
        "id": made["id"],
        "ip": "1.2.3.4",
        "cidr": None,
        "key_id": None,
        "country": None,
        "asn": None,
        "reason": "scraping",
        "source": "manual",
        "rule": None,
        "active": True,
        "created_at": "2026-11-18T11:06:40Z",
        "expires_at": "2026-11-18T12:06:40Z",
    }
    assert made["id"].startswith("blk_")
    assert (await code(alice, "1.2.3.4"), await code(alice, "1.2.3.5")) == ("blocked", "ok")
    await service.later(3600)
    assert await code(alice, "1.2.3.4") == "ok"
    assert not (await alice.ok("GET", f"/v1/blocklist/{made['id']}"))["active"]


@pytest.mark.parametrize(
    ("given", "shown", "address"),
    [
        ({"ip": "2001:DB8:0::7"}, {"ip": "2001:db8::7"}, "2001:db8::7"),
        ({"ip": "::ffff:1.2.3.4"}, {"ip": "1.2.3.4"}, "1.2.3.4"),
        ({"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.0/8"}, "10.200.3.4"),
        ({"cidr": "2001:db8::/32"}, {"cidr": "2001:db8::/32"}, "2001:db8:1::1"),
    ],
)
async def test_every_form_of_an_address_is_normalised_and_blocks(
    alice: Tenant, given: Json, shown: Json, address: str
) -> None:
    made = await alice.ok("POST", "/v1/blocklist", given, status=201)
    assert made.items() >= shown.items()
    assert made["expires_at"] is None
    assert await code(alice, address) == "blocked"
    await alice.ok("DELETE", f"/v1/blocklist/{made['id']}", status=204)
    assert await code(alice, address) == "ok"


async def test_keys_countries_and_networks_by_number_are_kept(alice: Tenant) -> None:
    key = await alice.key()
    for given, shown in (
        ({"key_id": key["id"]}, {"key_id": key["id"]}),
        ({"country": "aq"}, {"country": "AQ"}),
        ({"asn": 64500}, {"asn": 64500}),
    ):
        made = await alice.ok("POST", "/v1/blocklist", given, status=201)
        assert made.items() >= shown.items()
    asker = Caller(alice.client, alice.service_key)
    assert (await asker.ok("POST", "/v1/check", {"api_key": key["key"]}))["code"] == "blocked"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ip": "1.2.3.4", "cidr": "10.0.0.0/8"},
        {"ip": "1.2.3"},
        {"ip": "1.2.3.4/32x"},
        {"ip": 16909060},
        {"cidr": "10.0.0.1/8"},
        {"cidr": "10.0.0.0/33"},
        {"country": "Antarctica"},
        {"asn": "AS64500"},
        {"asn": 0},
        {"asn": 2**32},
        {"key_id": "nope"},
        {"ip": "1.2.3.4", "duration_seconds": 0},
        {"ip": "1.2.3.4", "duration_seconds": -1},
        {"ip": "1.2.3.4", "duration_seconds": 10**12},
        {"ip": "1.2.3.4", "duration_seconds": 1.5},
        {"ip": "1.2.3.4", "reason": "x" * 501},
        {"ip": "1.2.3.4", "source": "auto"},
    ],
)
async def test_what_cannot_be_blocked_is_422(alice: Tenant, body: Any) -> None:
    await alice.problem(422, "validation_failed", "POST", "/v1/blocklist", body)
    assert (await alice.ok("GET", "/v1/blocklist"))["data"] == []


async def test_blocks_are_found_by_state_source_and_address(service: Service, alice: Tenant) -> None:
    short = await alice.ok("POST", "/v1/blocklist", {"ip": "1.2.3.4", "duration_seconds": 60}, status=201)
    service.clock.advance(61)
    wide = await alice.ok("POST", "/v1/blocklist", {"cidr": "1.2.0.0/16"}, status=201)

    async def found(query: str) -> list[str]:
        return [block["id"] for block in (await alice.ok("GET", f"/v1/blocklist?{query}"))["data"]]

    assert await found("") == [wide["id"], short["id"]]
    assert await found("active=true") == [wide["id"]]
    assert await found("active=false") == [short["id"]]
    assert await found("ip=1.2.3.4") == [wide["id"], short["id"]]
    assert await found("ip=1.2.9.9&active=true") == [wide["id"]]
    assert await found("source=auto") == []
    for query in ("active=yes", "source=robot", "ip=nonsense"):
        await alice.problem(422, "validation_failed", "GET", f"/v1/blocklist?{query}")


async def test_blocking_again_takes_the_place_of_the_block_before(alice: Tenant) -> None:
    await alice.ok("POST", "/v1/blocklist", {"ip": "1.2.3.4", "duration_seconds": 60}, status=201)
    await alice.ok("POST", "/v1/blocklist", {"ip": "1.2.3.4"}, status=201)
    listed = (await alice.ok("GET", "/v1/blocklist"))["data"]
    assert [(block["ip"], block["expires_at"]) for block in listed] == [("1.2.3.4", None)]


async def test_an_allow_spares_the_blocklist_and_is_a_list_of_its_own(alice: Tenant) -> None:
    await alice.ok("POST", "/v1/blocklist", {"cidr": "10.0.0.0/8"}, status=201)
    allow = await alice.ok("POST", "/v1/allowlist", {"ip": "10.1.1.1"}, status=201)
    assert allow["id"].startswith("alw_")
    assert (await code(alice, "10.1.1.1"), await code(alice, "10.1.1.2")) == ("ok", "blocked")
    assert [a["id"] for a in (await alice.ok("GET", "/v1/allowlist"))["data"]] == [allow["id"]]
    await alice.problem(404, "not_found", "GET", f"/v1/blocklist/{allow['id']}")
    assert (await alice.ok("GET", f"/v1/allowlist/{allow['id']}")) == allow
    await alice.ok("DELETE", f"/v1/allowlist/{allow['id']}", status=204)
    assert await code(alice, "10.1.1.1") == "blocked"


async def test_the_operator_blocks_for_all_and_no_allow_of_a_tenant_lifts_it(
    service: Service, alice: Tenant, bob: Tenant
) -> None:
    made = await service.operator.ok("POST", "/v1/blocklist", {"ip": "203.0.113.66"}, status=201)
    await alice.ok("POST", "/v1/allowlist", {"ip": "203.0.113.66"}, status=201)
    assert [await code(tenant, "203.0.113.66") for tenant in (alice, bob)] == ["blocked", "blocked"]
    assert (await alice.ok("GET", "/v1/blocklist"))["data"] == []
    await alice.problem(404, "not_found", "DELETE", f"/v1/blocklist/{made['id']}")
    await service.operator.ok("DELETE", f"/v1/blocklist/{made['id']}", status=204)
    assert await code(alice, "203.0.113.66") == "ok"
