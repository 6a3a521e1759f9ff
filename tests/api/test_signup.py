"""Signing up without a token: for programs on this machine, or where it was opened; never for a page or a neighbour."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from tests.api.support import Caller, Service, Tenant, problem_of, serving
from tests.support.clock import ManualClock

NEW = {"name": "My App", "plan": "starter"}


async def test_a_program_on_the_machine_signs_up_and_gets_tenant_token_and_service_key(service: Service) -> None:
    made = await service.nobody.ok("POST", "/v1/tenants", NEW, status=201)
    assert made["id"].startswith("ten_")
    assert (made["name"], made["plan"], made["status"]) == ("My App", "starter", "active")
    assert made["token"].startswith("ast_")
    assert made["api_key"]["key"].startswith("sk_live_")
    assert made["api_key"]["kind"] == "service"
    tenant = Tenant(service.client, made)
    assert (await tenant.ok("GET", "/v1/tenant"))["id"] == made["id"]
    policies = (await tenant.ok("GET", "/v1/policies"))["data"]
    assert [(policy["name"], policy["per"], policy["match"]["caller"]) for policy in policies] == [
        ("anonymous", ["ip"], "anonymous")
    ]
    assert (policies[0]["limit"]["requests"], policies[0]["limit"]["window_seconds"]) == (60, 60)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"X-Real-IP": "203.0.113.9"},
        {"Via": "1.1 proxy"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded": "203.0.113.9"},
        {"True-Client-IP": "203.0.113.9"},
        {"Client-IP": "203.0.113.9"},
        {"X-Envoy-External-Address": "203.0.113.9"},
        {"CF-Connecting-IP": "203.0.113.9"},
    ],
)
async def test_a_request_through_a_proxy_or_from_a_web_page_is_not_local(
    service: Service, headers: dict[str, str]
) -> None:
    await service.nobody.problem(401, "signup_closed", "POST", "/v1/tenants", NEW, headers=headers)


async def test_a_request_in_http_1_0_is_a_proxys(service: Service) -> None:
    """Nginx speaks it to what it passes on to, and without further settings sends no forwarding headers."""

    async def through_nginx(scope: Scope, receive: Receive, send: Send) -> None:
        await service.app({**scope, "http_version": "1.0"}, receive, send)

    transport = httpx2.ASGITransport(app=through_nginx, client=("127.0.0.1", 50_000))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        await Caller(client).problem(401, "signup_closed", "POST", "/v1/tenants", NEW)


@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
async def test_an_origin_that_makes_no_sense_is_a_strangers(service: Service, path: str) -> None:
    response = await service.client.get(path, headers={"Origin": "http://["})
    assert response.status_code == (401 if path == "/metrics" else 200)


async def test_a_page_of_the_machine_itself_may_sign_up(service: Service) -> None:
    await service.nobody.ok("POST", "/v1/tenants", NEW, status=201, headers={"Origin": "http://localhost:3000"})


async def test_a_simple_form_of_a_web_page_is_not_read_as_json(service: Service) -> None:
    form = {"Content-Type": "text/plain"}
    response = await service.client.post("/v1/tenants", content=b'{"name": "x"}', headers=form)
    problem_of(response, 415, "unsupported_media_type")


async def test_a_service_on_all_addresses_is_closed_to_all_without_the_operators_token(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with serving(tmp_path, clock, host="0.0.0.0") as service:
        await service.nobody.problem(401, "signup_closed", "POST", "/v1/tenants", NEW)
        outside = Caller(service.client_at("http://localhost:8000", "203.0.113.9"))
        await outside.problem(401, "signup_closed", "POST", "/v1/tenants", NEW)
        await service.operator.ok("POST", "/v1/tenants", NEW, status=201)


async def test_closed_means_closed_on_loopback_too(tmp_path: Path, clock: ManualClock) -> None:
    async with serving(tmp_path, clock, signup="closed") as service:
        await service.nobody.problem(401, "signup_closed", "POST", "/v1/tenants", NEW)


async def test_open_means_open_to_all(tmp_path: Path, clock: ManualClock) -> None:
    async with serving(tmp_path, clock, host="0.0.0.0", signup="open") as service:
        outside = Caller(service.client_at("http://limits.example", "203.0.113.9"))
        await outside.ok("POST", "/v1/tenants", NEW, status=201)


async def test_an_address_signs_up_so_often_and_then_waits_and_others_do_not(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with serving(tmp_path, clock, host="0.0.0.0", signup="open", signup_limit="2/hour") as service:
        one = Caller(service.client_at("http://limits.example", "203.0.113.9"))
        two = Caller(service.client_at("http://limits.example", "203.0.113.10"))
        await one.ok("POST", "/v1/tenants", NEW, status=201)
        await one.ok("POST", "/v1/tenants", NEW, status=201)
        refused = await one.ask("POST", "/v1/tenants", NEW)
        problem_of(refused, 429, "signup_rate_limited")
        assert 3590 <= int(refused.headers["retry-after"]) <= 3610
        await two.ok("POST", "/v1/tenants", NEW, status=201)
        await service.operator.ok("POST", "/v1/tenants", NEW, status=201)
        clock.advance(int(refused.headers["retry-after"]))
        await one.ok("POST", "/v1/tenants", NEW, status=201)


async def test_an_ipv6_subscriber_counts_as_one_however_many_addresses_it_has(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with serving(tmp_path, clock, host="0.0.0.0", signup="open", signup_limit="1/hour") as service:

        def at(address: str) -> Caller:
            return Caller(service.client_at("http://limits.example", address))

        await at("2001:db8:1:2::1").ok("POST", "/v1/tenants", NEW, status=201)
        await at("2001:db8:1:2:ffff::2").problem(429, "signup_rate_limited", "POST", "/v1/tenants", NEW)
        await at("2001:db8:1:3::1").ok("POST", "/v1/tenants", NEW, status=201)


async def test_forwarded_addresses_are_believed_from_trusted_proxies_only(tmp_path: Path, clock: ManualClock) -> None:
    settings = {"host": "0.0.0.0", "signup": "open", "signup_limit": "1/hour", "trusted_proxies": "10.0.0.0/8"}
    async with serving(tmp_path, clock, **settings) as service:
        liar = Caller(service.client_at("http://limits.example", "203.0.113.9"))
        await liar.ok("POST", "/v1/tenants", NEW, status=201, headers={"X-Forwarded-For": "192.0.2.1"})
        await liar.problem(
            429, "signup_rate_limited", "POST", "/v1/tenants", NEW, headers={"X-Forwarded-For": "192.0.2.2"}
        )
        proxy = Caller(service.client_at("http://limits.example", "10.1.2.3"))
        await proxy.ok("POST", "/v1/tenants", NEW, status=201, headers={"X-Forwarded-For": "192.0.2.1"})
        await proxy.ok("POST", "/v1/tenants", NEW, status=201, headers={"X-Forwarded-For": "192.0.2.2"})
        await proxy.problem(
            429, "signup_rate_limited", "POST", "/v1/tenants", NEW, headers={"X-Forwarded-For": "192.0.2.2"}
        )


async def test_a_stranger_chooses_among_the_self_serve_plans_and_the_operator_among_all(service: Service) -> None:
    problem = await service.nobody.problem(
        422, "validation_failed", "POST", "/v1/tenants", {"name": "x", "plan": "unlimited"}
    )
    assert problem["errors"][0]["pointer"] == "/plan"
    await service.operator.ok("POST", "/v1/tenants", {"name": "x", "plan": "unlimited"}, status=201)


async def test_a_bad_token_at_the_sign_up_is_401_even_where_none_is_needed(service: Service) -> None:
    await Caller(service.client, "ast_" + "a" * 36).problem(401, "token_invalid", "POST", "/v1/tenants", NEW)
