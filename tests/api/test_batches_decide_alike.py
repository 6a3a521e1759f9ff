"""A batch answers, charges and writes down exactly what the same checks do that are asked one after the other."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apishield.core.events import DecisionEvent
from apishield.core.model import SECOND_US, Concurrency, FixedWindow, Limit, Mode, Quota, TokenBucket
from apishield.core.records import KeyKind, Match
from apishield.services.blocks import BlockDraft
from apishield.services.customers import CustomerDraft
from apishield.services.endpoints import EndpointDraft
from apishield.services.policies import PolicyDraft
from tests.api.test_events import written
from tests.support.checks import make_key, sliding
from tests.support.clock import ManualClock
from tests.support.mistakes import mistype
from tests.support.node import Tenant, running_node

HOUR_US = 3600 * SECOND_US
CHECKS = 300
UNREADABLE: list[Any] = [7, None, {"nonsense": 1}, {"cost": -1}, {"method": 5}, {"cost": {}}]
ITEM_FIELDS: dict[str, list[Any]] = {
    "api_key": [
        None,
        "",
        *("plain", "tight", "many", "customer", "elsewhere", "revoked", "service", "unknown", "mistyped"),
    ],
    "method": [None, "GET", "get", "POST", "BREW", "B R"],
    "path": [None, "/orders/7", "/orders/8?x=1", "/costly", "/admin", "/a/../b", "/sk_live_" + "0" * 36],
    "ip": [None, "203.0.113.7", "::ffff:203.0.113.7", "2001:db8::1", "192.0.2.1", "nowhere"],
}
SELDOM: dict[str, list[Any]] = {
    "cost": [0, 1, 2, 10**9, {"requests": 1, "tokens": 5}, {"tokens": 5}],
    "scopes": [[], ["read"], ["orders:read"]],
    "country": ["de", "XX", "nowhere"],
    "attributes": [{}, {"user_id": "u1"}, {"asn": "AS64496"}],
    "user_agent": ["curl/8", "ast_" + "0" * 36],
    "require_key": [True, False],
    "reserve": [True],
    "check_id": ["one", "two"],
}
OF_A_NODE = re.compile(r"\b(ten|key|cus|pol|lim)_[0-9a-v]{26}")
OF_THE_CLOCK = re.compile(r"(t=|Try again in )\d+")
TIMES = {"reset_seconds", "retry_after", "X-RateLimit-Reset", "Retry-After", "at_us", "retry_after_us"}


async def _furnish(tenant: Tenant) -> dict[str, str]:
    """Gives the tenant some of everything that has a say; returns the secrets of its keys by name."""
    runtime, owner = tenant.node.runtime, tenant.owner
    tokens = Limit(id="", name="tokens", algorithm=TokenBucket(1, HOUR_US, 40), unit="tokens", charge_refused=True)
    shadow = Limit(id="", name="tried", algorithm=FixedWindow(3, 31 * 24 * HOUR_US), mode=Mode.SHADOW)
    slots = Limit(id="", name="slots", algorithm=Concurrency(5, HOUR_US // 4))
    month = Limit(id="", name="month", algorithm=Quota(20))
    customer = await runtime.customers.create(
        owner, CustomerDraft(name="c", rate_limits=(sliding(15, window_us=HOUR_US),))
    )
    drafts: dict[str, dict[str, Any]] = {
        "plain": {"rate_limits": (sliding(10**6, window_us=HOUR_US),), "scopes": ("read", "orders:*")},
        "tight": {"rate_limits": (sliding(5, window_us=HOUR_US),)},
        "many": {"rate_limits": (sliding(60, window_us=2 * HOUR_US), tokens, shadow, slots), "quotas": (month,)},
        "customer": {"customer_id": customer.id},
        "elsewhere": {"allowed_ips": ("198.51.100.0/24",)},
        "revoked": {},
        "service": {"kind": KeyKind.SERVICE, "scopes": ()},
    }
    made = {name: await make_key(tenant, **draft) for name, draft in drafts.items()}
    await runtime.keys.revoke(owner, made["revoked"][0])
    await runtime.endpoints.create(owner, EndpointDraft(method="GET", path="/orders/{id}", required_scopes=("read",)))
    await runtime.endpoints.create(owner, EndpointDraft(method="*", path="/costly", cost={"requests": 3, "tokens": 2}))
    await runtime.endpoints.create(owner, EndpointDraft(method="*", path="/admin", required_scopes=("admin",)))
    await runtime.blocks.create(owner, BlockDraft(kind="ip", value="192.0.2.1"))
    await runtime.blocks.create(owner, BlockDraft(kind="country", value="XX"))
    await runtime.policies.create(
        owner, PolicyDraft(name="users", per=("attr:user_id",), limit=sliding(4, window_us=3 * HOUR_US), cost=2)
    )
    await runtime.policies.create(
        owner,
        PolicyDraft(
            name="tried",
            per=("ip",),
            limit=sliding(2, window_us=HOUR_US),
            match=Match(path="/orders*"),
            mode=Mode.SHADOW,
        ),
    )
    await runtime.snapshot.catch_up()
    secrets = {name: secret for name, (_, secret) in made.items()}
    await tenant.check(api_key=secrets["many"], cost=0)  # what was used of a quota is read once, while others pass
    return {**secrets, "mistyped": mistype(secrets["plain"])}


def _checks(seed: int) -> list[Any]:
    """Checks whose keys are named, not given. Few differ in all that matters: most were asked like that before."""
    chance = random.Random(seed)
    checks: list[Any] = []
    for _ in range(CHECKS):
        if chance.random() < 0.02:
            checks.append(chance.choice(UNREADABLE))
            continue
        check = {name: chance.choice(values) for name, values in ITEM_FIELDS.items() if chance.random() < 0.9}
        if chance.random() < 0.5:
            check |= {"api_key": chance.choice(["plain", "tight", "many", ""]), "method": "GET", "ip": "203.0.113.7"}
            check["path"] = chance.choice(["/orders/7", "/open"])
        check |= {name: chance.choice(values) for name, values in SELDOM.items() if chance.random() < 0.1}
        checks.append({name: value for name, value in check.items() if value is not None})
    return checks


def _of(tenant: Tenant, secrets: dict[str, str], checks: Sequence[Any]) -> list[Any]:
    """The checks as ``tenant`` asks them."""
    other = "sk_live_" + "0" * 36
    return [
        {**check, "api_key": secrets.get(check["api_key"], other if check["api_key"] else "")}
        if isinstance(check, dict) and "api_key" in check
        else check
        for check in checks
    ]


async def _batch(tenant: Tenant, checks: Sequence[Any]) -> list[Any]:
    results: list[Any] = (await tenant.post("/v1/check/batch", {"checks": checks})).json()["results"]
    return results


def _told(tenant: Tenant, decisions: Sequence[Any], data_dir: Path, *, has_own_time: bool) -> list[Any]:
    """What each check came to, with its event, without what differs from node to node."""
    events = {event.sequence: event for event in written(data_dir) if isinstance(event, DecisionEvent)}
    first: dict[str, int] = {}
    told = []
    for at, decision in enumerate(decisions):
        decision_id = decision["decision_id"]
        ref = tenant.node.runtime.decision_ids.read(decision_id, tenant.id)
        assert ref is not None
        assert decision["headers"]["X-APIShield-Decision"] == decision_id
        event = msgspec.structs.asdict(events[ref.sequence])
        text = json.dumps([decision, event, ref.held], default=msgspec.to_builtins)
        shown = json.loads(OF_A_NODE.sub(r"\1", text.replace(decision_id, str(first.setdefault(decision_id, at)))))
        shown[1]["sequence"] = 0
        if has_own_time and shown[1]["refusal"]:
            shown[1]["refusal"][-1] = None
        told.append(_timeless(shown) if has_own_time else shown)
    return told


def _timeless(shown: Any) -> Any:
    if isinstance(shown, dict):
        return {name: None if name in TIMES and value else _timeless(value) for name, value in shown.items()}
    if isinstance(shown, list):
        return [_timeless(each) for each in shown]
    return OF_THE_CLOCK.sub(r"\1", shown) if isinstance(shown, str) else shown


def _noted(tenant: Tenant) -> dict[str, Any]:
    """What this process counted."""
    runtime = tenant.node.runtime
    usage = runtime.usage
    return {
        "checks": dict(runtime.metrics.checks),
        "degraded": runtime.recorder.degraded_decisions,
        "shadow": (usage.shadow.would_refuse, usage.shadow.admitted),
        "used": len(usage._last_used),
        "quota": sorted(use.used for use in usage._quotas.values()),
    }


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_a_batch_decides_as_its_checks_do_one_after_the_other(
    store: str, seed: int, tmp_path: Path, clock: ManualClock, request: pytest.FixtureRequest
) -> None:
    redis_url = request.getfixturevalue("redis_url") if store == "redis" else None
    checks = _checks(seed)
    told, noted = [], []
    for way in ("one by one", "together"):
        async with running_node(tmp_path / way, clock, redis_url=redis_url) as node:
            tenant = await node.tenant()
            asked = _of(tenant, await _furnish(tenant), checks)
            if way == "together":
                results = await _batch(tenant, asked)
            else:
                results = [
                    (await _batch(tenant, [check]))[0] if check in UNREADABLE else await tenant.check(**check)
                    for check in asked
                ]
            told.append(_told(tenant, results, tmp_path / way, has_own_time=store == "redis"))
            noted.append(_noted(tenant))
    assert len({decision["code"] for decision, _, _ in told[0]}) > 8  # else the checks are too much alike to tell
    for check, alone, together in zip(checks, *told, strict=True):
        assert together == alone, check
    assert noted[1] == noted[0]
