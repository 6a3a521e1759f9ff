"""``check_id``: a check that is asked again, on whatever node, gets the decision that it got, and is charged and noted once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from apishield.core.model import Concurrency, Limit
from tests.support.checks import MINUTE_US, make_key, sliding
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, running_node
from tests.support.services import RedisServer


@pytest_asyncio.fixture(params=["memory", "redis"])
async def node(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Node]:
    redis_url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    async with running_node(tmp_path, clock, redis_url=redis_url) as running:
        yield running


@pytest_asyncio.fixture
async def tenant(node: Node) -> Tenant:
    return await node.tenant()


async def _remaining(tenant: Tenant, key: str) -> int:
    remaining: int = (await tenant.check(api_key=key, cost=0))["limits"][0]["remaining"]
    return remaining


async def test_a_repeat_gets_the_same_body_and_charges_nothing(tenant: Tenant) -> None:
    _, key = await make_key(tenant, rate_limits=(sliding(5),))
    question = {"api_key": key, "method": "GET", "path": "/orders", "check_id": "one"}
    first = await tenant.check(**question)
    assert [await tenant.check(**question) for _ in range(3)] == [first] * 3
    assert first["allowed"]
    assert await _remaining(tenant, key) == 4


async def test_duplicates_at_the_same_time_are_one_check(tenant: Tenant) -> None:
    _, key = await make_key(tenant, rate_limits=(sliding(50),))
    decisions = await asyncio.gather(*(tenant.check(api_key=key, check_id=f"c{n % 4}") for n in range(40)))
    assert len({decision["decision_id"] for decision in decisions}) == 4
    assert await _remaining(tenant, key) == 46


async def test_a_refusal_by_a_limit_is_repeated_as_it_was(tenant: Tenant) -> None:
    _, key = await make_key(tenant, rate_limits=(sliding(1),))
    await tenant.check(api_key=key)
    refused = await tenant.check(api_key=key, check_id="one")
    assert (refused["code"], refused["retry_after"]) == ("rate_limited", pytest.approx(60, abs=0.1))
    await tenant.node.runtime.store.reset([])
    assert await tenant.check(api_key=key, check_id="one") == refused


async def test_a_check_without_limits_is_repeated_too(tenant: Tenant) -> None:
    _, key = await make_key(tenant)
    first = await tenant.check(api_key=key, check_id="one")
    assert first["limits"] == []
    assert await tenant.check(api_key=key, check_id="one") == first


async def test_another_question_under_the_same_check_id_is_refused_and_charges_nothing(tenant: Tenant) -> None:
    _, key = await make_key(tenant, rate_limits=(sliding(5),))
    await tenant.check(api_key=key, check_id="one", path="/a", method="GET")
    other = await tenant.check(api_key=key, check_id="one", path="/b", method="GET")
    assert (other["allowed"], other["code"], other["status"]) == (False, "bad_request", 400)
    assert "check_id" in other["message"]
    assert await _remaining(tenant, key) == 4


async def test_a_key_that_was_revoked_meanwhile_is_refused(tenant: Tenant) -> None:
    key_id, key = await make_key(tenant, rate_limits=(sliding(5),))
    await tenant.check(api_key=key, check_id="one")
    await tenant.node.runtime.keys.revoke(tenant.owner, key_id)
    assert (await tenant.check(api_key=key, check_id="one"))["code"] == "key_revoked"


async def test_a_repeat_takes_no_slot_and_what_it_reserved_is_settled_once(tenant: Tenant) -> None:
    slots = Limit(id="", name="slots", algorithm=Concurrency(2, MINUTE_US))
    _, key = await make_key(tenant, rate_limits=(slots, sliding(1000, "tokens", unit="tokens")))
    question = {"api_key": key, "cost": {"requests": 1, "tokens": 600}, "reserve": True, "check_id": "one"}
    first, again = await tenant.check(**question), await tenant.check(**question)
    assert again == first
    report = {"decision_id": first["decision_id"], "status": 200, "latency_ms": 1, "cost": {"tokens": 100}}
    receipt = (await tenant.post("/v1/report", {"events": [report, report]})).json()
    assert (receipt["accepted"], receipt["duplicates"], receipt["rejected"]) == (1, 1, [])
    peek = await tenant.check(api_key=key, cost=0)
    assert {limit["name"]: limit["remaining"] for limit in peek["limits"]} == {"slots": 2, "tokens": 900}


async def test_the_items_of_a_batch_may_repeat_each_other(tenant: Tenant) -> None:
    _, key = await make_key(tenant, rate_limits=(sliding(5),))
    check = {"api_key": key, "check_id": "one"}
    answer = (await tenant.post("/v1/check/batch", {"checks": [check, check, {"api_key": key}]})).json()
    first, again, other = answer["results"]
    assert again == first
    assert other["decision_id"] != first["decision_id"]
    assert await _remaining(tenant, key) == 3


async def test_a_repeat_is_noted_neither_in_the_usage_nor_in_the_ledger(tenant: Tenant) -> None:
    _, key = await make_key(tenant, rate_limits=(sliding(5),))
    before = dict(tenant.node.runtime.recorder._decisions_by_code)
    for _ in range(3):
        await tenant.check(api_key=key, check_id="one")
    assert tenant.node.runtime.recorder._decisions_by_code["ok"] == before.get("ok", 0) + 1


async def test_tenants_may_use_the_same_check_id(tenant: Tenant) -> None:
    other = await tenant.node.tenant("Other")
    first = await tenant.check(check_id="one", ip="192.0.2.1")
    assert (await other.check(check_id="one", ip="192.0.2.1"))["tenant_id"] != first["tenant_id"]


@pytest.mark.parametrize("check_id", ["", "x" * 101, 7])
async def test_a_check_id_has_1_to_100_characters(tenant: Tenant, check_id: Any) -> None:
    response = await tenant.post("/v1/check", {"check_id": check_id})
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/check_id")


async def test_another_node_gives_the_same_decision(tmp_path: Path, redis_url: str, clock: ManualClock) -> None:
    async with (
        running_node(tmp_path, clock, redis_url=redis_url) as one,
        running_node(tmp_path, clock, redis_url=redis_url) as two,
    ):
        tenant = await one.tenant()
        _, key = await make_key(tenant, rate_limits=(sliding(5, "a"), sliding(5, "b")))
        await two.runtime.snapshot.load()
        there = tenant.on(two)
        asked = [node.check(api_key=key, check_id="one") for node in (tenant, there) * 5]
        decisions = await asyncio.gather(*asked)
        assert decisions == decisions[:1] * 10
        assert await _remaining(there, key) == 4


async def test_a_node_without_redis_remembers_what_it_decided_itself(
    tmp_path: Path, redis_url: str, redis_server: RedisServer, clock: ManualClock
) -> None:
    async with running_node(tmp_path, clock, redis_url=redis_url) as node:
        tenant = await node.tenant()
        _, key = await make_key(tenant, rate_limits=(sliding(5),))
        redis_server.kill()
        first = await tenant.check(api_key=key, check_id="one")
        assert (first["allowed"], first["degraded"]) == (True, True)
        assert await tenant.check(api_key=key, check_id="one") == first
        assert await _remaining(tenant, key) == 4
        redis_server.heal()
