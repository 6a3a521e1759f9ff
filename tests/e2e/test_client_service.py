"""The SDK's whole control plane against the real service."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from apishield import APIShield, AsyncAPIShield
from apishield.client.errors import (
    AuthenticationError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from apishield.client.models import CheckRequest, Report
from tests.support.service import Service


@pytest.fixture
def owner(shared_service: Service) -> Iterator[APIShield]:
    """A client with a new tenant's token and service key."""
    with APIShield(shared_service.url) as anonymous:
        made = anonymous.create_tenant("My App")
    assert made.token is not None
    assert made.api_key is not None
    with APIShield(shared_service.url, token=made.token, api_key=made.api_key.key) as owner:
        yield owner


def test_the_life_of_a_key(owner: APIShield) -> None:
    expires_at = datetime(2030, 1, 1, tzinfo=UTC)
    key = owner.create_key(
        "Production",
        scopes=["read", "orders:*"],
        rate_limit={"strategy": "sliding_window", "requests": 2, "window_seconds": 60},
        quota={"monthly_requests": 500_000},
        expires_at=expires_at,
        metadata={"team": "blue"},
    )
    assert key.key is not None
    assert (key.scopes, key.expires_at, key.metadata) == (("read", "orders:*"), expires_at, {"team": "blue"})
    assert owner.get_key(key.id).key is None
    assert [found.id for found in owner.list_keys(q="Produc", limit=10).data] == [key.id]
    assert owner.update_key(key.id, name="Renamed", expires_at=None).expires_at is None

    verdicts = [owner.check(api_key=key.key, method="GET", path="/orders") for _ in range(3)]
    assert [verdict.code for verdict in verdicts] == ["ok", "ok", "rate_limited"]
    assert verdicts[0].key is not None
    assert verdicts[0].key.metadata == {"team": "blue"}
    assert owner.get_key_usage(key.id).rate_limits[0]["used"] == 2
    reports = [Report(decision_id=verdict.decision_id, status=200, latency_ms=1.5) for verdict in verdicts]
    assert owner.report(reports).accepted == 3
    assert owner.report(reports).duplicates == 3

    rotated = owner.rotate_key(key.id, grace_seconds=3600)
    assert rotated.key not in {None, key.key}
    assert rotated.previous_expires_at is not None
    batch = owner.check_batch([CheckRequest(api_key=key.key, cost=0), CheckRequest(api_key=rotated.key, cost=0)])
    assert [decision.code for decision in batch.results] == ["ok", "ok"]
    assert owner.revoke_key(key.id).status == "revoked"
    assert owner.check(api_key=rotated.key).code == "key_revoked"


def test_the_life_of_a_customer_and_of_a_block(owner: APIShield) -> None:
    customer = owner.create_customer("ACME", external_id="a-1", rate_limits=["1000/hour"])
    assert owner.update_customer(customer.id, email="it@acme.example").email == "it@acme.example"
    assert [found.id for found in owner.list_customers().data] == [customer.id]
    assert owner.get_customer(customer.id).external_id == "a-1"
    owner.delete_customer(customer.id)
    with pytest.raises(NotFoundError):
        owner.get_customer(customer.id)

    block = owner.block(cidr="192.0.2.0/24", reason="scraping", duration_seconds=3600)
    assert block.expires_at is not None
    assert owner.check(ip="192.0.2.9").code == "blocked"
    assert [found.id for found in owner.list_blocks(ip="192.0.2.9", active=True).data] == [block.id]
    owner.unblock(block.id)
    assert owner.check(ip="192.0.2.9").code == "ok"


def test_the_life_of_a_policy_and_what_it_would_refuse_in_shadow(owner: APIShield) -> None:
    policy = owner.create_policy("Search", per=["ip"], limit="1/hour", match={"path": "/search*"}, mode="shadow")
    assert (policy.per, policy.mode, policy.match["path"]) == (("ip",), "shadow", "/search*")
    for _ in range(3):
        assert owner.check(ip="203.0.113.7", method="GET", path="/search").allowed
    report = owner.get_policy_shadow(policy.id)
    assert (report.policy_id, report.would_refuse, report.admitted) == (policy.id, 2, 1)
    assert report.subjects == [{"subject": {"ip": "203.0.113.7"}, "would_refuse": 2}]
    assert owner.update_policy(policy.id, mode="enforce", limit="2/hour").limit["requests"] == 2
    assert policy.id in {found.id for found in owner.list_policies().data}
    owner.delete_policy(policy.id)
    with pytest.raises(NotFoundError):
        owner.get_policy(policy.id)


def test_the_catalogue_of_endpoints(owner: APIShield) -> None:
    endpoint = owner.create_endpoint("GET", "/orders/{id}", required_scopes=["orders:read"], cost=2)
    assert (owner.get_endpoint(endpoint.id).required_scopes, endpoint.cost) == (("orders:read",), 2)
    document = {"openapi": "3.1.0", "paths": {"/free": {"get": {"security": []}}, "/{": {"get": {}}}}
    imported = owner.import_endpoints(document, base_path="/v1")
    assert (imported.created, imported.failed) == (1, 1)
    assert {found.path for found in owner.list_endpoints().data} == {"/orders/{id}", "/v1/free"}
    owner.delete_endpoint(endpoint.id)
    with pytest.raises(NotFoundError):
        owner.get_endpoint(endpoint.id)


def test_pages_lead_through_the_whole_list(owner: APIShield) -> None:
    made = {owner.create_key(f"key {number}").id for number in range(5)}
    found: list[str] = []
    cursor = None
    while True:
        page = owner.list_keys(limit=2, cursor=cursor)
        found += [key.id for key in page.data]
        cursor = page.next_cursor
        if not page.has_more:
            break
    assert made <= set(found)
    assert len(found) == len(set(found))


def test_what_is_wrong_is_an_error_that_names_it(shared_service: Service, owner: APIShield) -> None:
    with pytest.raises(InvalidRequestError) as invalid:
        owner.create_key("n", rate_limit={"strategy": "sliding_window", "requests": 1, "window_seconds": 0})
    assert invalid.value.code == "invalid_limit"
    assert invalid.value.faults[0].pointer.startswith("/rate_limit")
    assert invalid.value.request_id is not None
    with pytest.raises(NotFoundError):
        owner.get_key("key_00000000000000000000000000")
    with APIShield(shared_service.url, token="ast_wrong") as stranger, pytest.raises(AuthenticationError):
        stranger.list_keys()
    key = owner.create_key("service", kind="service").key
    with (
        APIShield(shared_service.url, api_key=key) as gateway,
        pytest.raises((AuthenticationError, PermissionDeniedError)),
    ):
        gateway.list_keys()


def test_an_operator_names_the_tenant_it_speaks_for(shared_service: Service, owner: APIShield) -> None:
    tenant = owner.get_tenant()
    with APIShield(shared_service.url, token=shared_service.operator_token, tenant_id=tenant.id) as operator:
        assert operator.create_key("made by the operator").id in {key.id for key in owner.list_keys().data}


async def test_the_asynchronous_client_is_the_same(shared_service: Service, owner: APIShield) -> None:
    secret = owner.create_key("service", kind="service").key
    async with AsyncAPIShield(shared_service.url, api_key=secret) as client:
        assert (await client.check(ip="198.51.100.7", method="GET", path="/")).allowed


def test_an_estimate_is_settled_or_given_back(owner: APIShield) -> None:
    tokens = {
        "name": "tokens",
        "strategy": "sliding_window",
        "requests": 5000,
        "window_seconds": 3600,
        "unit": "tokens",
    }
    key = owner.create_key("For a model", rate_limits=[tokens])

    def remaining() -> int:
        return owner.check(api_key=key.key, cost=0).limits[0].remaining

    settled, abandoned = [owner.check(api_key=key.key, cost={"tokens": 2000}, reserve=True) for _ in range(2)]
    assert remaining() == 1000
    report = Report(decision_id=settled.decision_id, status=200, latency_ms=2300, cost={"tokens": 812})
    assert owner.report([report, report]).duplicates == 1
    assert remaining() == 2188
    assert [owner.release(abandoned.decision_id).released for _ in range(2)] == [True, False]
    assert remaining() == 4188
