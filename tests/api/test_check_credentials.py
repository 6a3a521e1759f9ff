"""What outlives a check: credentials that end or are renewed, blocks that hold for all, a store that is gone."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from apishield.api.readiness import warnings_about
from apishield.core.model import Limit, OnStoreFailure, TokenBucket
from apishield.core.records import KeyKind
from apishield.errors import ProblemError
from apishield.services import installation
from apishield.services.blocks import BlockDraft
from apishield.services.key_drafts import ImportItem, KeyDraft
from apishield.stores.failover import FailoverStore
from tests.support.checks import MINUTE_US, make_key, sliding
from tests.support.clock import ManualClock
from tests.support.node import OPERATOR, Node, Tenant, running_node
from tests.support.services import RedisServer


async def test_a_secret_is_renewed_under_the_newest_pepper_when_it_is_used(tmp_path: Path, clock: ManualClock) -> None:
    old, new = ("b2xkIHNlY3JldCBvZiAzMiBieXRlcyBhdCBsZWFzdCE=", "bmV3IHNlY3JldCBvZiAzMiBieXRlcyBhdCBsZWFzdCE=")
    async with running_node(tmp_path, clock, secret=f"1:{old}") as first:
        tenant = await first.tenant()
        _, secret = await make_key(tenant)
    async with running_node(tmp_path, clock, secret=f"2:{new},1:{old}") as second:
        tenant.node = second
        assert (await tenant.check(api_key=secret))["allowed"]  # the service key and the caller's, both under version 1
        assert len(second.runtime.snapshot.outdated) == 2
        await second.runtime._renew_secrets()
        assert (await tenant.check(api_key=secret))["allowed"]
        assert not second.runtime.snapshot.outdated
    async with running_node(tmp_path, clock, secret=f"2:{new}") as third:  # the old version is retired
        tenant.node = third
        assert (await tenant.check(api_key=secret))["allowed"]
        assert (
            await tenant.post("/v1/check", {}, tenant.token)
        ).status_code == 401  # never used since, so never renewed


async def test_when_a_key_or_token_was_last_used_is_noted_behind(
    tenant: Tenant, node: Node, clock: ManualClock
) -> None:
    key_id, secret = await make_key(tenant)
    clock.advance(5)
    await tenant.check(api_key=secret)
    await tenant.post("/v1/check", {}, tenant.token)
    await node.runtime.usage.flush()
    assert (await node.runtime.keys.get(tenant.owner, key_id)).last_used_at_us == clock()
    async with node.runtime.database.read() as tx:
        token = await tx.tokens.get(tenant.id, tenant.owner.id)
        assert token is not None
        assert token.last_used_at_us == clock()


async def test_a_limit_that_denies_without_its_store_answers_503(
    tmp_path: Path, clock: ManualClock, redis_server: RedisServer
) -> None:
    async with running_node(tmp_path, clock, redis_url=redis_server.url) as node:
        tenant = await node.tenant()
        _, denies = await make_key(tenant, rate_limits=(sliding(5, on_store_failure=OnStoreFailure.DENY),))
        _, goes_on = await make_key(tenant, rate_limits=(sliding(5),))
        redis_server.stop()
        try:
            refused = await tenant.check(api_key=denies, method="GET")
            assert (refused["code"], refused["status"], refused["degraded"]) == ("store_unavailable", 503, True)
            assert refused["headers"]["X-APIShield-Degraded"] == "true"
            answers = [await tenant.check(api_key=goes_on, method="GET") for _ in range(7)]
            assert [answer["allowed"] for answer in answers] == [True] * 5 + [False] * 2
            assert all(answer["degraded"] for answer in answers)
        finally:
            redis_server.cont()


async def test_a_rotated_service_secret_ends_with_its_grace_though_it_was_used(
    tenant: Tenant, node: Node, clock: ManualClock
) -> None:
    key, old = await node.runtime.keys.create(tenant.owner, KeyDraft(name="s", kind=KeyKind.SERVICE))
    await node.runtime.keys.rotate(tenant.owner, key.id, grace_seconds=2)
    assert (await tenant.post("/v1/check", {}, old)).status_code == 200
    clock.advance(2)
    assert (await tenant.post("/v1/check", {}, old)).status_code == 401


async def test_nobody_ends_anothers_credentials_by_importing_their_hashes(tenant: Tenant, node: Node) -> None:
    thief = await node.tenant("Thief")
    hashes = [hashlib.sha256(secret.encode()).hexdigest() for secret in (tenant.service_key, tenant.token)]
    items = [ImportItem(draft=KeyDraft(name="stolen"), sha256=sha256) for sha256 in hashes]
    imported = await node.runtime.keys.import_many(thief.owner, items)
    for result in imported:
        if result.key is not None:
            await node.runtime.keys.revoke(thief.owner, result.key.id)
    for credential in (tenant.service_key, tenant.token):
        assert (await tenant.post("/v1/check", {}, credential)).status_code == 200


async def test_the_operators_blocks_of_countries_networks_and_keys_hold_for_all(tenant: Tenant, node: Node) -> None:
    key_id, secret = await make_key(tenant)
    for kind, value in (("country", "KP"), ("asn", "AS64500"), ("key_id", key_id)):
        await node.runtime.blocks.create(OPERATOR, BlockDraft(kind=kind, value=value))  # type: ignore[arg-type]
    assert (await tenant.check(country="kp"))["code"] == "blocked"
    assert (await tenant.check(attributes={"asn": "64500"}))["code"] == "blocked"
    assert (await tenant.check(attributes={"asn": "AS64501"}))["code"] == "ok"
    assert (await tenant.check(api_key=secret))["code"] == "blocked"


async def test_an_allow_is_a_tenants_and_blocks_nobody(node: Node) -> None:
    with pytest.raises(ProblemError, match="name the tenant"):
        await node.runtime.blocks.create(OPERATOR, BlockDraft(action="allow", kind="ip", value="192.0.2.1"))


async def test_a_service_key_is_not_given_what_would_not_bind_it(tenant: Tenant) -> None:
    with pytest.raises(ProblemError, match="service key"):
        await make_key(tenant, kind=KeyKind.SERVICE, scopes=(), allowed_ips=("192.0.2.1",))


async def test_a_fresh_bucket_is_full_and_shows_no_use(tenant: Tenant) -> None:
    bucket = Limit(id="", name="bucket", algorithm=TokenBucket(5, MINUTE_US, 2))
    key_id, _ = await make_key(tenant, rate_limits=(bucket,))
    key = await tenant.node.runtime.keys.get(tenant.owner, key_id)
    usage = (await tenant.node.runtime.usage.key_usage(tenant.owner, key)).rate_limits[0]
    assert (usage.limit, usage.remaining, usage.used) == (2, 2, 0)


async def test_a_renewed_operators_token_ends_the_former_one_on_running_nodes(node: Node) -> None:
    runtime = node.runtime
    renewed = await installation.replace_operator(runtime.database, runtime.secrets, runtime.entropy)
    assert runtime.snapshot.authenticate(renewed) is None
    await runtime._learn_operator()
    assert runtime.snapshot.authenticate(renewed) is not None
    again = await installation.replace_operator(runtime.database, runtime.secrets, runtime.entropy)
    await runtime._learn_operator()
    assert runtime.snapshot.authenticate(renewed) is None
    assert runtime.snapshot.authenticate(again) is not None


async def test_a_lost_redis_is_said_in_the_log_and_is_no_reason_to_take_the_node_out(
    tmp_path: Path, clock: ManualClock, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_node(tmp_path, clock, redis_url=redis_server.url) as node:
        tenant = await node.tenant()
        _, secret = await make_key(tenant, rate_limits=(sliding(1000),))
        assert await warnings_about(node.runtime) == []
        redis_server.kill()
        try:
            async with asyncio.timeout(20):
                assert await warnings_about(node.runtime), "also while nothing is asked"
                store = node.runtime.store
                assert isinstance(store, FailoverStore)
                while not store.is_degraded:
                    await tenant.check(api_key=secret, method="GET")
            assert await warnings_about(node.runtime)
            assert "store.gone" in capsys.readouterr().out
        finally:
            redis_server.restart()
        async with asyncio.timeout(20):
            while await warnings_about(node.runtime):
                await asyncio.sleep(0.01)
        assert "store.healed" in capsys.readouterr().out
