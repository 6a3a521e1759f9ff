"""Reserve and settle, slots and release: the true cost counts in the end, once, on both stores and from every node."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from apishield.core.model import SECOND_US, Concurrency, FixedWindow, Limit, Quota, SlidingWindow, TokenBucket
from apishield.services.key_drafts import KeyDraft
from tests.support.checks import make_key
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, running_node
from tests.support.spool import files_end_at

HOUR_US = 3600 * SECOND_US


@pytest_asyncio.fixture(params=["memory", "redis"])
async def node(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Node]:
    redis_url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    async with running_node(tmp_path, clock, redis_url=redis_url) as running:
        yield running


async def _key(tenant: Tenant, *limits: Limit, quotas: tuple[Limit, ...] = ()) -> str:
    draft = KeyDraft(name="k", scopes=("read",), rate_limits=limits, quotas=quotas)
    return (await tenant.node.runtime.keys.create(tenant.owner, draft))[1]


def _tokens(requests: int) -> Limit:
    return Limit(id="", name="tokens", algorithm=SlidingWindow(requests, HOUR_US), unit="tokens")


async def _report(tenant: Tenant, decision: dict[str, Any], **more: Any) -> dict[str, Any]:
    event = {"decision_id": decision["decision_id"], "status": 200, "latency_ms": 5, **more}
    response = await tenant.post("/v1/report", {"events": [event]})
    assert response.status_code == 202, response.text
    receipt: dict[str, Any] = response.json()
    return receipt


async def _release(tenant: Tenant, decision: dict[str, Any]) -> dict[str, Any]:
    response = await tenant.post(f"/v1/decisions/{decision['decision_id']}/release", {})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def _remaining(tenant: Tenant, key: str) -> dict[str, int]:
    peek = await tenant.check(api_key=key, cost=0)
    return {limit["name"]: limit["remaining"] for limit in peek["limits"]}


async def test_what_was_reserved_too_much_comes_back_and_requests_stay(tenant: Tenant) -> None:
    requests = Limit(id="", name="requests", algorithm=TokenBucket(1, HOUR_US, 10))
    key = await _key(tenant, _tokens(1000), requests)
    decision = await tenant.check(api_key=key, cost={"requests": 1, "tokens": 900}, reserve=True)
    assert await _remaining(tenant, key) == {"tokens": 100, "requests": 9}
    assert await _report(tenant, decision, cost={"tokens": 250}) == {"accepted": 1, "duplicates": 0, "rejected": []}
    assert await _remaining(tenant, key) == {"tokens": 750, "requests": 9}


async def test_what_was_reserved_too_little_is_charged_past_the_limit(tenant: Tenant) -> None:
    key = await _key(tenant, _tokens(1000))
    decision = await tenant.check(api_key=key, cost={"tokens": 100}, reserve=True)
    await _report(tenant, decision, cost={"tokens": 1400})
    assert await _remaining(tenant, key) == {"tokens": 0}
    refused = await tenant.check(api_key=key, cost={"tokens": 1})
    assert refused["code"] == "rate_limited"


async def test_what_is_charged_past_limits_is_shown_as_use(tenant: Tenant) -> None:
    monthly = Limit(id="", name="monthly", algorithm=Quota(100), unit="tokens")
    bucket = Limit(id="", name="bucket", algorithm=TokenBucket(1, HOUR_US, 500), unit="tokens")
    window = Limit(id="", name="window", algorithm=FixedWindow(700, HOUR_US), unit="tokens")
    key_id, secret = await make_key(tenant, rate_limits=(_tokens(1000), bucket, window), quotas=(monthly,))
    decision = await tenant.check(api_key=secret, cost={"tokens": 1}, reserve=True)
    await _report(tenant, decision, cost={"tokens": 2500})
    runtime = tenant.node.runtime
    usage = await runtime.usage.key_usage(tenant.owner, await runtime.keys.get(tenant.owner, key_id))
    assert [(limit.used, limit.remaining) for limit in usage.rate_limits] == [(2500, 0)] * 3
    assert [(limit.used, limit.remaining) for limit in usage.quotas] == [(2500, 0)]
    peek = await tenant.check(api_key=secret, cost=0)
    assert [limit["remaining"] for limit in peek["limits"]] == [0] * 4
    assert re.findall(r"r=(-?\d+)", peek["headers"]["RateLimit"]) == ["0"] * 4
    assert peek["headers"]["X-RateLimit-Remaining"] == "0"


async def test_it_is_settled_once_however_often_it_is_told(tenant: Tenant) -> None:
    key = await _key(tenant, _tokens(1000))
    decision = await tenant.check(api_key=key, cost={"tokens": 500}, reserve=True)
    receipts = await asyncio.gather(*(_report(tenant, decision, cost={"tokens": 100}) for _ in range(8)))
    assert sum(receipt["accepted"] for receipt in receipts) == 1
    assert sum(receipt["duplicates"] for receipt in receipts) == 7
    assert await _remaining(tenant, key) == {"tokens": 900}


async def test_a_cost_may_follow_a_report_without_one(tenant: Tenant) -> None:
    key = await _key(tenant, _tokens(1000))
    decision = await tenant.check(api_key=key, cost={"tokens": 500}, reserve=True)
    assert (await _report(tenant, decision))["accepted"] == 1
    assert await _remaining(tenant, key) == {"tokens": 500}  # nobody has settled it: the estimate stands
    assert (await _report(tenant, decision, cost={"tokens": 10}))["accepted"] == 1
    assert await _remaining(tenant, key) == {"tokens": 990}
    assert (await _report(tenant, decision))["duplicates"] == 1


async def test_a_report_or_release_that_the_disk_does_not_take_is_not_answered_as_taken(tenant: Tenant) -> None:
    """Only what is written down is accepted: else a kill would lose what a bill was told."""
    key = await _key(tenant, _tokens(1000))
    settled, released, untouched = [
        await tenant.check(api_key=key, cost={"tokens": 100}, reserve=True) for _ in range(3)
    ]
    report = {
        "events": [{"decision_id": settled["decision_id"], "status": 200, "latency_ms": 5, "cost": {"tokens": 10}}]
    }
    release = f"/v1/decisions/{released['decision_id']}/release"
    with files_end_at(0):
        # The first is when the disk is found to be full; from then on nothing is settled that can't be written down.
        for path, body in (("/v1/report", report), (release, {}), ("/v1/report", report)):
            refused = await tenant.post(path, body)
            assert (refused.status_code, refused.json()["code"]) == (507, "storage_full"), refused.text
        assert (await tenant.check(api_key=key, cost={"tokens": 1}))["allowed"], "checks go on"
    await tenant.node.runtime.events.tick()
    again = await tenant.post("/v1/report", report)
    assert again.json() == {"accepted": 0, "duplicates": 1, "rejected": []}, "it was noted, and is written down now"
    assert (await tenant.post(release, {})).json()["released"]
    assert (await _report(tenant, untouched, cost={"tokens": 20}))["accepted"] == 1
    assert await _remaining(tenant, key) == {"tokens": 1000 - 10 - 20 - 1}


async def test_without_any_limit_a_reservation_settles_for_the_ledger(tenant: Tenant) -> None:
    key = await _key(tenant)
    runtime = tenant.node.runtime
    for named in ({}, {"check_id": "one"}):
        settled = await tenant.check(api_key=key, cost={"tokens": 500}, reserve=True, **named)
        assert (settled["allowed"], settled["limits"], settled["degraded"]) == (True, [], False)
        assert (await _report(tenant, settled, cost={"tokens": 120}))["accepted"] == 1
        assert (await _report(tenant, settled, cost={"tokens": 120}))["duplicates"] == 1
        await runtime.freshness.wait()
        shown = await runtime.decisions.find(tenant.owner, settled["decision_id"])
        assert shown.stored.settlement is not None
        assert shown.stored.settlement.units == {"tokens": 120}
    released = await tenant.check(api_key=key, cost={"tokens": 500}, reserve=True)
    assert (await _release(tenant, released))["released"]
    assert (await _release(tenant, released))["reason"] == "over"
    plain = await tenant.check(api_key=key, cost={"tokens": 500})
    assert (await _report(tenant, plain, cost={"tokens": 1}))["rejected"][0]["code"] == "not_reserved"


async def test_a_cost_without_a_reservation_is_refused(tenant: Tenant) -> None:
    key = await _key(tenant, _tokens(1000))
    decision = await tenant.check(api_key=key, cost={"tokens": 500})
    rejected = (await _report(tenant, decision, cost={"tokens": 1}))["rejected"]
    assert [each["code"] for each in rejected] == ["not_reserved"]
    assert await _remaining(tenant, key) == {"tokens": 500}


async def test_a_reservation_that_nobody_settles_in_time_stays_charged(tmp_path: Path, clock: ManualClock) -> None:
    # In memory: on Redis the record's time to live is the server's, which no test moves.
    async with running_node(tmp_path, clock) as node:
        tenant = await node.tenant()
        key = await _key(tenant, _tokens(1000))
        decision = await tenant.check(api_key=key, cost={"tokens": 500}, reserve=True, settle_within_seconds=60)
        clock.advance(60)
        for _ in range(2):
            late = await _report(tenant, decision, cost={"tokens": 1})
            assert (late["accepted"], late["duplicates"]) == (0, 0)
            assert late["rejected"][0]["code"] == "not_reserved"
            assert "settle_within_seconds" in late["rejected"][0]["message"]
        assert (await _report(tenant, decision))["duplicates"] == 1  # its result was taken
        assert await _remaining(tenant, key) == {"tokens": 500}


async def test_a_refused_check_reserves_nothing(tenant: Tenant) -> None:
    key = await _key(tenant, _tokens(10))
    decision = await tenant.check(api_key=key, cost={"tokens": 11}, reserve=True)
    assert not decision["allowed"]
    await _report(tenant, decision, cost={"tokens": 5})
    assert await _remaining(tenant, key) == {"tokens": 10}


async def test_a_quota_settles_too(tenant: Tenant) -> None:
    key = await _key(tenant, quotas=(Limit(id="", name="monthly", algorithm=Quota(1000), unit="tokens"),))
    decision = await tenant.check(api_key=key, cost={"tokens": 900}, reserve=True)
    await _report(tenant, decision, cost={"tokens": 200})
    assert await _remaining(tenant, key) == {"monthly": 800}


async def test_slots_are_freed_by_the_report_or_by_hand(tenant: Tenant) -> None:
    key = await _key(tenant, Limit(id="", name="parallel", algorithm=Concurrency(2, HOUR_US)))
    first, second, third = [await tenant.check(api_key=key) for _ in range(3)]
    assert [each["allowed"] for each in (first, second, third)] == [True, True, False]
    assert third["code"] == "concurrency_exceeded"
    await _report(tenant, first)
    fourth = await tenant.check(api_key=key)
    assert fourth["allowed"]
    assert await _release(tenant, second) == {"released": True, "reason": None, "message": ""}
    again = await _release(tenant, second)
    assert (again["released"], again["reason"]) == (False, "over")
    assert "released before" in again["message"]
    assert (await tenant.check(api_key=key))["allowed"]


async def test_a_release_gives_the_whole_charge_back(tenant: Tenant) -> None:
    key = await _key(tenant, _tokens(1000))
    decision = await tenant.check(api_key=key, cost={"tokens": 500}, reserve=True)
    assert (await _release(tenant, decision))["released"]
    assert await _remaining(tenant, key) == {"tokens": 1000}
    for _ in range(2):
        late = await _report(tenant, decision, cost={"tokens": 400})
        assert (late["accepted"], late["duplicates"], late["rejected"][0]["code"]) == (0, 0, "not_reserved")
        assert "released before" in late["rejected"][0]["message"]
    assert (await _report(tenant, decision))["duplicates"] == 1  # its result was taken
    assert await _remaining(tenant, key) == {"tokens": 1000}


async def test_of_a_check_that_holds_nothing_it_is_said_that_nothing_can_be_given_back(tenant: Tenant) -> None:
    key = await _key(tenant, _tokens(1000))
    plain = await tenant.check(api_key=key, cost={"tokens": 3})
    answer = await _release(tenant, plain)
    assert (answer["released"], answer["reason"]) == (False, "not_reserved")
    assert '"reserve": true' in answer["message"]
    assert await _remaining(tenant, key) == {"tokens": 997}


async def test_nobody_settles_or_releases_for_another_tenant(tenant: Tenant) -> None:
    key = await _key(tenant, _tokens(1000))
    decision = await tenant.check(api_key=key, cost={"tokens": 500}, reserve=True)
    stranger = await tenant.node.tenant("Stranger")
    assert (await stranger.post(f"/v1/decisions/{decision['decision_id']}/release", {})).status_code == 404
    rejected = (await _report(stranger, decision, cost={"tokens": 0}))["rejected"]
    assert rejected[0]["code"] == "decision_unknown"
    assert (await tenant.post("/v1/decisions/dec_invented/release", {})).status_code == 404
    assert await _remaining(tenant, key) == {"tokens": 500}


@pytest.mark.parametrize("field", [{"settle_within_seconds": 0}, {"settle_within_seconds": 86_401}, {"reserve": "yes"}])
async def test_a_reservation_that_can_t_be_is_a_fault_of_its_field(tenant: Tenant, field: dict[str, Any]) -> None:
    response = await tenant.post("/v1/check", field)
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/" + next(iter(field))


async def test_every_node_says_the_same_of_a_cost_that_comes_after_the_release(
    tmp_path: Path, redis_url: str, clock: ManualClock
) -> None:
    async with (
        running_node(tmp_path, clock, redis_url=redis_url) as one,
        running_node(tmp_path, clock, redis_url=redis_url) as two,
    ):
        tenant = await one.tenant()
        key = await _key(tenant, _tokens(1000))
        await two.runtime.snapshot.load()
        decision = await tenant.check(api_key=key, cost={"tokens": 500}, reserve=True)
        await _release(tenant, decision)
        here, there = [await _report(node, decision, cost={"tokens": 700}) for node in (tenant, tenant.on(two))]
        assert here == there
        assert here["rejected"][0]["code"] == "not_reserved"
        assert await _remaining(tenant, key) == {"tokens": 1000}


async def test_of_a_cost_and_a_release_at_once_one_counts(tenant: Tenant) -> None:
    for place in range(4):
        key = await _key(tenant, _tokens(1000))
        decision = await tenant.check(api_key=key, cost={"tokens": 10}, reserve=True)
        calls: list[Any] = [_report(tenant, decision, cost={"tokens": 100}) for _ in range(3)]
        calls.insert(place, tenant.post(f"/v1/decisions/{decision['decision_id']}/release", {}))
        receipts = await asyncio.gather(*calls)
        released = receipts.pop(place).json()["released"]
        assert sum(receipt["accepted"] for receipt in receipts) == (0 if released else 1)
        assert sum(len(receipt["rejected"]) for receipt in receipts) == (3 if released else 0)
        assert await _remaining(tenant, key) == {"tokens": 1000 if released else 900}
