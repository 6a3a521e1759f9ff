"""Receipts: a tenant sees everything of its decisions, a refused caller what it may know; and the latest, page by page."""

from __future__ import annotations

import asyncio

import pytest

from apishield.api.routers.receipts import RECEIPTS_AN_ADDRESS
from apishield.services.analytics import decisions
from apishield.services.analytics.places import Queues
from tests.api.support import Caller, Json, Service, Tenant
from tests.api.test_analytics_queries import ask, check, report
from tests.support.mistakes import mistype

TOO_MANY = int(RECEIPTS_AN_ADDRESS.partition("/")[0])


async def refused(tenant: Tenant) -> tuple[Json, Json]:
    """A key that is limited to one request an hour, and the decision that refused its second."""
    key = await tenant.key(name="Secret name", rate_limit="1/hour", metadata={"private": "alices metadata"})
    asked = {"api_key": key["key"], "method": "GET", "path": "/orders/17", "ip": "203.0.113.7", "country": "DE"}
    await check(tenant, **asked)
    return key, await check(tenant, **asked, user_agent="curl/8.9", attributes={"user_id": "u1"})


async def test_a_tenant_sees_which_limit_refused_what_was_counted_and_until_when(alice: Tenant) -> None:
    key, decision = await refused(alice)
    found = await alice.ok("GET", f"/v1/decisions/{decision['decision_id']}")
    assert found["id"] == decision["decision_id"]
    assert (found["allowed"], found["code"], found["status"]) == (False, "rate_limited", 429)
    assert found["message"] == decision["message"]
    assert (found["key_id"], found["ip"], found["country"]) == (key["id"], "203.0.113.7", "DE")
    assert (found["method"], found["path"], found["endpoint"]) == ("GET", "/orders/17", "/orders/{id}")
    assert (found["user_agent"], found["attributes"]) == ("curl/8.9", {"user_id": "u1"})
    violated = found["violated"]
    assert (violated["name"], violated["limit"], violated["remaining"]) == ("default", 1, 0)
    assert (violated["window_seconds"], violated["retry_after_seconds"]) == (3600, decision["retry_after"])
    assert violated["until"] > found["at"]
    assert "Wait" in found["what_to_do"]
    assert found["documentation"].endswith("/rate_limited.md")


async def test_what_became_of_a_decision_is_in_its_receipt(alice: Tenant) -> None:
    limit = {"strategy": "sliding_window", "requests": 5000, "window_seconds": 60, "unit": "tokens"}
    key = await alice.key(rate_limit=limit)
    decision = await check(alice, api_key=key["key"], method="GET", path="/", cost={"tokens": 900}, reserve=True)
    await report(alice, decision, status=200, latency_ms=12.5, bytes=7, cost={"tokens": 400})
    found = await alice.ok("GET", f"/v1/decisions/{decision['decision_id']}")
    assert (found["allowed"], found["status"], found["violated"], found["what_to_do"]) == (True, 200, None, None)
    assert found["result"] == {"at": found["result"]["at"], "status": 200, "latency_ms": 12.5, "bytes": 7}
    assert (found["cost"], found["settled_cost"]) == ({"tokens": 900}, {"tokens": 400})


async def test_another_tenants_decision_is_404_as_one_that_never_was(alice: Tenant, bob: Tenant) -> None:
    _, decision = await refused(alice)
    for unknown in (decision["decision_id"], decision["decision_id"][:-1] + "x", "dec_1", "nonsense"):
        await bob.problem(404, "not_found", "GET", f"/v1/decisions/{unknown}")


async def test_anybody_with_the_id_reads_why_and_how_to_get_out_and_nothing_of_the_tenant(
    service: Service, alice: Tenant
) -> None:
    key, decision = await refused(alice)
    found = await service.nobody.ok("GET", f"/receipts/{decision['decision_id']}")
    assert (found["allowed"], found["code"], found["status"]) == (False, "rate_limited", 429)
    assert (found["limit"]["limit"], found["limit"]["remaining"]) == (1, 0)
    assert found["what_to_do"]
    text = str(found)
    private = (key["id"], "Secret name", alice.id, "203.0.113.7", "u1", "alices metadata", "/orders", "curl")
    assert not [secret for secret in private if secret in text]


async def test_a_receipt_that_never_was_is_404_whatever_its_id_looks_like(service: Service, alice: Tenant) -> None:
    _, decision = await refused(alice)
    await ask(alice, "summary")
    real = decision["decision_id"]
    for unknown in (mistype(real), real[:20] + "0" * 23, "dec_", "x" * 99, "é"):
        problem = await service.nobody.problem(404, "not_found", "GET", f"/receipts/{unknown}")
        assert "There is no decision" in problem["detail"]


async def test_an_address_can_ask_for_so_many_receipts_only(service: Service) -> None:
    for _ in range(TOO_MANY):
        await service.nobody.problem(404, "not_found", "GET", "/receipts/dec_1")
    response = await service.nobody.ask("GET", "/receipts/dec_1")
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    other = service.client_at("http://localhost:8000", "192.0.2.77")
    assert (await other.get("/receipts/dec_1")).status_code == 404


async def test_the_latest_requests_come_newest_first_page_by_page_each_once(service: Service, alice: Tenant) -> None:
    made = []
    for number in range(7):
        made.append((await check(alice, method="GET", path=f"/{number}", ip="203.0.113.7"))["decision_id"])
        service.clock.advance(1)
    seen, cursor = [], None
    while True:
        page = await ask(alice, "requests", limit=3, **({"cursor": cursor} if cursor else {}))
        seen += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert seen == made[::-1]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 2),
        ({"outcome": "refused"}, 1),
        ({"status": "429"}, 1),
        ({"status": "4xx"}, 1),
        ({"status": "200"}, 0),
        ({"ip": "203.0.113.7"}, 2),
        ({"ip": "203.0.113.8"}, 0),
        ({"endpoint": "/orders/{id}", "method": "get", "country": "de"}, 2),
        ({"environment": "test"}, 0),
        ({"to": "now-1h"}, 0),
    ],
)
async def test_the_latest_requests_can_be_narrowed(alice: Tenant, filters: dict[str, str], count: int) -> None:
    await refused(alice)
    await check(alice, method="GET", path="/", cost=0)  # a question is none of them
    assert len((await ask(alice, "requests", **filters))["data"]) == count


async def test_a_page_looks_at_so_many_decisions_only_and_says_how_far_it_came(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MOST_SCANNED", 4)
    for number in range(10):
        await check(alice, method="GET" if number else "POST", path="/", ip="203.0.113.7")
        service.clock.advance(1)
    pages = [await ask(alice, "requests", method="POST")]
    while pages[-1]["next_cursor"]:
        pages.append(await ask(alice, "requests", method="POST", cursor=pages[-1]["next_cursor"]))
    assert [len(page["data"]) for page in pages] == [0, 0, 1]
    scanned = [page["scanned_to"] for page in pages]
    assert scanned == sorted(scanned, reverse=True)


@pytest.mark.parametrize("cursor", ["x", "cmVxdWVzdHM6MQ", "cmVxdWVzdHM6MS4yLjMuNA", "a2V5czprZXlfMQ"])
async def test_a_cursor_of_something_else_is_refused(alice: Tenant, cursor: str) -> None:
    await alice.problem(422, "invalid_cursor", "GET", f"/v1/analytics/requests?cursor={cursor}")


async def test_a_viewer_reads_receipts_and_a_service_key_does_not(alice: Tenant) -> None:
    _, decision = await refused(alice)
    await (await alice.viewer()).ok("GET", f"/v1/decisions/{decision['decision_id']}")
    caller = Caller(alice.client, alice.service_key)
    await caller.problem(401, "token_invalid", "GET", f"/v1/decisions/{decision['decision_id']}")


async def test_lists_of_a_tenant_wait_for_each_other_and_too_many_are_told_to_come_again(
    service: Service, alice: Tenant, bob: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = Queues("lists of requests", at_once=1, waiting=1)
    monkeypatch.setattr(service.runtime.decisions, "_scans", queues)
    async with queues.admitted(alice.id):
        waiting = asyncio.create_task(alice.ask("GET", "/v1/analytics/requests"))
        while queues.waiting_or_going(alice.id) < 2:
            await asyncio.sleep(0)
        problem = await alice.problem(429, "concurrency_exceeded", "GET", "/v1/analytics/requests")
        assert "2 lists of requests" in problem["detail"]
        await bob.ok("GET", "/v1/analytics/requests")
        assert not waiting.done()
    assert (await waiting).status_code == 200
    assert queues.waiting_or_going(alice.id) == 0
