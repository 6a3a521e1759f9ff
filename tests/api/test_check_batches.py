"""A batch holds up nobody else and has an answer of bounded size, whatever a tenant's policies are."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from apishield.api.dataplane import batches
from apishield.core.model import SECOND_US, Limit, SlidingWindow
from apishield.core.policies import CompiledPolicy, PolicyPlan
from apishield.core.records import Match, Policy
from apishield.services.key_entries import KeyEntry
from tests.support.checks import make_key
from tests.support.clock import ManualClock
from tests.support.node import Tenant, running_node


def _have_policies(tenant: Tenant, count: int) -> None:
    """Gives the tenant policies that match every check."""
    view = tenant.node.runtime.snapshot.tenant(tenant.id)
    assert view is not None
    limits = [
        Limit(id=f"lim_{n}", name=f"limit {n}", algorithm=SlidingWindow(10**6, 60 * SECOND_US)) for n in range(count)
    ]
    policies = [
        Policy(
            id=f"pol_{limit.id}",
            tenant_id=tenant.id,
            name=limit.name,
            match=Match(),
            per=("tenant",),
            limit=limit,
            created_at_us=0,
            updated_at_us=0,
        )
        for limit in limits
    ]
    view.policy_plan = PolicyPlan(view.tenant.plan, map(CompiledPolicy, policies))


@pytest.mark.parametrize("store", ["memory", "redis"])
@pytest.mark.parametrize("caller", ["stranger", "key made a moment ago"])
async def test_a_batch_is_decided_by_a_bounded_number_of_limits_and_refuses_the_rest_by_name(
    store: str, caller: str, tmp_path: Path, clock: ManualClock, request: pytest.FixtureRequest
) -> None:
    redis_url = request.getfixturevalue("redis_url") if store == "redis" else None
    async with running_node(tmp_path, clock, redis_url=redis_url) as node:
        tenant = await node.tenant()
        _have_policies(tenant, 500)
        check = {} if caller == "stranger" else {"api_key": (await make_key(tenant))[1]}
        response = await tenant.post("/v1/check/batch", {"checks": [check] * 400})
        results = json.loads(response.content)["results"]
    assert len(results) == 400
    assert sum(len(result["limits"]) + result["limits_omitted"] for result in results) == batches.MAX_LIMITS_A_BATCH
    assert results[0]["code"] == "ok"
    assert results[-1]["code"] == "bad_request"
    assert "20,000 limits" in results[-1]["message"]


async def test_a_check_under_a_thousand_limits_gets_a_small_answer(tenant: Tenant) -> None:
    _have_policies(tenant, 1000)
    response = await tenant.post("/v1/check", {})
    decision = json.loads(response.content)
    assert (decision["allowed"], len(decision["limits"]), decision["limits_omitted"]) == (True, 20, 980)
    assert len(response.content) < 8192
    assert sum(len(name) + len(value) + 4 for name, value in decision["headers"].items()) < 2048


@pytest.mark.parametrize(
    "checks", [[{}] * 21 + [{"nonsense": 1}] * 60, [{"nonsense": 1}, {}] * 40], ids=["behind the bound", "by turns"]
)
async def test_a_check_that_can_not_be_read_is_noted_once_wherever_a_batch_reaches_its_bound(
    checks: list[dict[str, int]], tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_LIMITS_A_BATCH", 20)
    async with running_node(tmp_path, clock) as node:
        tenant = await node.tenant()
        _have_policies(tenant, 1)
        before = node.runtime.metrics.checks.copy()
        response = await tenant.post("/v1/check/batch", {"checks": checks})
        noted = {code: count - before[code] for code, count in node.runtime.metrics.checks.items()}
    codes = [result["code"] for result in json.loads(response.content)["results"]]
    assert noted["ok"] == codes.count("ok") == 20
    assert noted["bad_request"] == codes.count("bad_request") == len(checks) - 20


async def test_what_can_not_be_read_ends_a_turn_that_has_taken_its_time(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_TURN_SECONDS", 0)
    turns = 0

    async def others(_last: object) -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(batches, "_let_others", others)
    async with running_node(tmp_path, clock) as node:
        tenant = await node.tenant()
        await tenant.post("/v1/check/batch", {"checks": [{"nonsense": 1}] * 50})
    assert turns == 49


async def test_others_have_their_turn_while_a_batch_is_decided(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_TURN_SECONDS", 0)
    monkeypatch.setattr(batches, "CHECKS_AT_ONCE", 1)
    turns = 0

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with running_node(tmp_path, clock) as node:
        tenant = await node.tenant()
        await tenant.check()
        other = asyncio.create_task(somebody_else())
        await tenant.post("/v1/check/batch", {"checks": [{}] * 1000})
        other.cancel()
    assert turns > 900


async def test_a_key_that_is_revoked_while_a_batch_is_decided_is_refused_from_the_next_turn_on(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_TURN_SECONDS", 0)
    monkeypatch.setattr(batches, "CHECKS_AT_ONCE", 1)
    async with running_node(tmp_path, clock) as node:
        tenant = await node.tenant()
        key_id, secret = await make_key(tenant)
        await tenant.check(api_key=secret)
        view = node.runtime.snapshot.tenant(tenant.id)
        assert view is not None

        async def revoke_soon() -> None:
            for _ in range(50):
                await asyncio.sleep(0)
            revoked = msgspec.structs.replace(view.keys[key_id].key, revoked_at_us=clock())
            view.keys[key_id] = KeyEntry(revoked, view.customers)

        revoking = asyncio.create_task(revoke_soon())
        response = await tenant.post("/v1/check/batch", {"checks": [{"api_key": secret}] * 1000})
        await revoking
    codes = [result["code"] for result in json.loads(response.content)["results"]]
    assert codes == ["ok"] * codes.count("ok") + ["key_revoked"] * codes.count("key_revoked")
    assert 0 < codes.count("ok") < 1000
