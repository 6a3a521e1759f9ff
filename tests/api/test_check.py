"""The verdict through ``POST /v1/check``: order, refusals, limits, quotas; on real bytes and a real database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apishield.core.model import SECOND_US, FixedWindow, Limit, Quota, SlidingWindow, TokenBucket
from apishield.core.records import KeyKind, Role
from apishield.services.blocks import BlockDraft
from apishield.services.customers import CustomerDraft
from apishield.services.key_drafts import KeyChanges, KeyDraft
from apishield.services.tenants import TenantChanges
from tests.support.checks import MINUTE_US, make_key, sliding
from tests.support.clock import ManualClock
from tests.support.mistakes import mistype
from tests.support.node import OPERATOR, Node, Tenant, running_node


async def test_a_key_is_admitted_up_to_its_limit_and_then_told_when(tenant: Tenant, clock: ManualClock) -> None:
    _, secret = await make_key(tenant, rate_limits=(sliding(3),))
    answers = [await tenant.check(api_key=secret, method="GET", path="/x") for _ in range(5)]
    assert [answer["allowed"] for answer in answers] == [True, True, True, False, False]
    assert [answer["limits"][0]["remaining"] for answer in answers] == [2, 1, 0, 0, 0]
    refused = answers[-1]
    assert (refused["code"], refused["status"]) == ("rate_limited", 429)
    assert refused["retry_after"] == 60
    assert refused["headers"]["Retry-After"] == "60"
    assert refused["headers"]["X-RateLimit-Remaining"] == "0"
    assert refused["headers"]["X-APIShield-Decision"] == refused["decision_id"]
    assert refused["limits"][0]["violated"]
    assert "Retry-After" not in answers[0]["headers"]
    clock.advance(59.999999)
    assert not (await tenant.check(api_key=secret, method="GET"))["allowed"]
    clock.advance(0.000001)
    assert (await tenant.check(api_key=secret, method="GET"))["allowed"]


async def test_several_limits_decide_all_or_nothing(tenant: Tenant) -> None:
    _, secret = await make_key(tenant, rate_limits=(sliding(10, "wide"), sliding(2, "tight")))
    for _ in range(5):
        last = await tenant.check(api_key=secret, method="GET")
    remaining = {limit["name"]: limit["remaining"] for limit in last["limits"]}
    assert remaining == {"wide": 8, "tight": 0}  # three refusals charged neither
    assert last["limits"][0]["name"] == "tight"  # the most restrictive first


async def test_a_cost_that_never_fits_is_refused_without_a_time(tenant: Tenant) -> None:
    _, secret = await make_key(tenant, rate_limits=(sliding(3),))
    refused = await tenant.check(api_key=secret, method="GET", cost=4)
    assert (refused["code"], refused["retry_after"]) == ("rate_limited", None)
    assert "Retry-After" not in refused["headers"]
    assert (await tenant.check(api_key=secret, method="GET", cost=3))["allowed"]


async def test_a_peek_charges_nothing_and_is_no_use(tenant: Tenant) -> None:
    key_id, secret = await make_key(tenant, rate_limits=(sliding(3),))
    for _ in range(5):
        assert (await tenant.check(api_key=secret, method="GET", cost=0))["limits"][0]["remaining"] == 3
    key = await tenant.node.runtime.keys.get(tenant.owner, key_id)
    usage = await tenant.node.runtime.usage.key_usage(tenant.owner, key)
    assert usage.totals.today == 0


async def test_units_are_counted_apart(tenant: Tenant) -> None:
    limits = (sliding(10, "requests"), sliding(1000, "tokens", unit="tokens"))
    _, secret = await make_key(tenant, rate_limits=limits)
    first = await tenant.check(api_key=secret, method="GET", cost={"requests": 1, "tokens": 900})
    assert {limit["name"]: limit["remaining"] for limit in first["limits"]} == {"requests": 9, "tokens": 100}
    second = await tenant.check(api_key=secret, method="GET", cost={"requests": 1, "tokens": 900})
    assert [limit["name"] for limit in second["limits"] if limit["violated"]] == ["tokens"]
    assert {limit["name"]: limit["remaining"] for limit in second["limits"]} == {"requests": 9, "tokens": 100}


@pytest.mark.parametrize(
    "algorithm", [FixedWindow(5, MINUTE_US), SlidingWindow(5, MINUTE_US), TokenBucket(5, MINUTE_US, 5)]
)
async def test_every_algorithm_admits_its_limit_exactly(
    tenant: Tenant, algorithm: FixedWindow | SlidingWindow | TokenBucket
) -> None:
    _, secret = await make_key(tenant, rate_limits=(Limit(id="", name="a", algorithm=algorithm),))
    answers = [(await tenant.check(api_key=secret, method="GET"))["allowed"] for _ in range(9)]
    assert sum(answers) == 5


async def test_a_quota_of_a_memory_node_survives_its_restart(tmp_path: Path, clock: ManualClock) -> None:
    quotas = (Limit(id="", name="monthly", algorithm=Quota(5)),)
    async with running_node(tmp_path, clock) as first:
        tenant = await first.tenant()
        _, secret = await make_key(tenant, quotas=quotas)
        for _ in range(3):
            await tenant.check(api_key=secret, method="GET")
    async with running_node(tmp_path, clock) as second:
        tenant.node = second
        answers = [await tenant.check(api_key=secret, method="GET") for _ in range(3)]
    assert [answer["allowed"] for answer in answers] == [True, True, False]
    assert answers[-1]["code"] == "quota_exceeded"
    assert answers[-1]["limits"][0]["strategy"] == "quota"


async def test_customers_share_their_limits_over_all_their_keys(tenant: Tenant) -> None:
    runtime = tenant.node.runtime
    customer = await runtime.customers.create(
        tenant.owner, CustomerDraft(name="ACME", rate_limits=(sliding(2, "shared"),))
    )
    secrets = [(await make_key(tenant, customer_id=customer.id))[1] for _ in range(2)]
    answers = [await tenant.check(api_key=secret, method="GET") for secret in secrets * 2]
    assert [answer["allowed"] for answer in answers] == [True, True, False, False]
    assert answers[0]["key"]["customer_id"] == customer.id


async def test_callers_without_a_key_are_counted_by_address_and_ipv6_by_64(tenant: Tenant) -> None:
    for number in range(61):
        last = await tenant.check(ip=f"2001:db8::{number + 1:x}", method="GET", path="/x")
    assert last["code"] == "rate_limited"
    assert last["limits"][0]["name"] == "anonymous"
    assert last["limits"][0]["policy_id"].startswith("pol_")
    assert (await tenant.check(ip="2001:db8:0:1::1", method="GET"))["allowed"]
    assert (await tenant.check(method="GET"))["allowed"]  # without an address the step that needs one is skipped


async def test_a_refusal_says_why_in_code_and_words(tenant: Tenant, clock: ManualClock) -> None:
    runtime = tenant.node.runtime
    key_id, secret = await make_key(tenant)
    mistyped = mistype(secret)
    stranger = await tenant.node.tenant("Other")
    _, foreign = await make_key(stranger)
    _, bound = await make_key(tenant, allowed_ips=("10.0.0.0/8",))
    _, reader = await make_key(tenant, scopes=("read",))
    _, expiring = await make_key(tenant, expires_at_us=clock() + SECOND_US)
    disabled_id, disabled = await make_key(tenant)
    await runtime.keys.update(tenant.owner, disabled_id, KeyChanges(enabled=False))
    await runtime.keys.revoke(tenant.owner, key_id)
    clock.advance(1)
    expected: list[tuple[dict[str, Any], str, int]] = [
        ({"api_key": mistyped}, "key_malformed", 401),
        ({"api_key": "sk_live_"}, "key_malformed", 401),
        ({"api_key": foreign}, "key_unknown", 401),
        ({"api_key": "an-imported-looking-key-of-nobody"}, "key_unknown", 401),
        ({"api_key": "x" * 600}, "key_unknown", 401),
        ({"api_key": tenant.service_key}, "key_wrong_kind", 401),
        ({"api_key": secret}, "key_revoked", 401),
        ({"api_key": expiring}, "key_expired", 401),
        ({"api_key": disabled}, "key_disabled", 401),
        ({"api_key": bound, "ip": "192.0.2.1"}, "ip_not_allowed", 403),
        ({"api_key": bound}, "ip_not_allowed", 403),
        ({"api_key": bound, "ip": "10.1.2.3"}, "ok", 200),
        ({"api_key": reader, "method": "POST"}, "scope_missing", 403),
        ({"api_key": reader, "method": "GET"}, "ok", 200),
        ({"api_key": reader, "scopes": ["orders:read"]}, "scope_missing", 403),
        ({"api_key": reader, "scopes": []}, "ok", 200),
        ({"scopes": ["read"]}, "key_missing", 401),
        ({"require_key": True}, "key_missing", 401),
        ({"ip": "not-an-address"}, "bad_request", 400),
        ({"path": "/a/../b"}, "bad_request", 400),
        ({"path": "/a%2fb"}, "bad_request", 400),
        ({"method": "GE T"}, "bad_request", 400),
    ]
    for question, code, status in expected:
        answer = await tenant.check(**question)
        assert (answer["code"], answer["status"]) == (code, status), question
        assert answer["allowed"] is (code == "ok")
        assert bool(answer["message"]) is (code != "ok")
        assert ("WWW-Authenticate" in answer["headers"]) is (status == 401)


async def test_a_foreign_key_and_an_invented_one_get_the_same_answer(tenant: Tenant) -> None:
    stranger = await tenant.node.tenant("Other")
    _, foreign = await make_key(stranger)
    own_id, own = await make_key(tenant)
    await tenant.node.runtime.tenants.delete(OPERATOR, stranger.id)  # now nobody has it
    invented = await tenant.check(api_key=foreign)
    other = await tenant.node.tenant("Another")
    _, foreign = await make_key(other)
    held_elsewhere = await tenant.check(api_key=foreign)
    for answer in (invented, held_elsewhere):
        del answer["decision_id"], answer["headers"]["X-APIShield-Decision"]
    assert invented == held_elsewhere
    assert own_id
    assert own


async def test_a_rotated_secret_works_until_its_grace_ends(tenant: Tenant, clock: ManualClock) -> None:
    key_id, old = await make_key(tenant)
    _, new = await tenant.node.runtime.keys.rotate(tenant.owner, key_id, grace_seconds=60)
    assert (await tenant.check(api_key=old))["allowed"]
    assert (await tenant.check(api_key=new))["allowed"]
    clock.advance(60)
    assert (await tenant.check(api_key=old))["code"] in {"key_expired", "key_unknown"}
    assert (await tenant.check(api_key=new))["allowed"]


async def test_blocks_come_before_keys_and_allows_lift_the_tenants_own_only(tenant: Tenant, clock: ManualClock) -> None:
    blocks = tenant.node.runtime.blocks

    async def block(actor: Any, action: Any, kind: Any, value: str, seconds: int | None = None) -> None:
        await blocks.create(actor, BlockDraft(action=action, kind=kind, value=value, duration_seconds=seconds))

    key_id, secret = await make_key(tenant)
    await block(tenant.owner, "block", "cidr", "198.51.100.0/24", 60)
    answer = await tenant.check(api_key="sk_live_wrong", ip="198.51.100.7")
    assert (answer["code"], answer["status"], answer["limits"]) == ("blocked", 403, [])
    await block(tenant.owner, "allow", "ip", "198.51.100.7")
    assert (await tenant.check(api_key=secret, ip="198.51.100.7"))["allowed"]
    assert (await tenant.check(api_key=secret, ip="198.51.100.8"))["code"] == "blocked"
    await block(OPERATOR, "block", "ip", "198.51.100.7")
    assert (await tenant.check(api_key=secret, ip="198.51.100.7"))["code"] == "blocked"
    clock.advance(60)
    assert (await tenant.check(api_key=secret, ip="198.51.100.8"))["allowed"]
    await block(tenant.owner, "block", "key_id", key_id)
    assert (await tenant.check(api_key=secret, ip="192.0.2.1"))["code"] == "blocked"
    await block(tenant.owner, "block", "country", "KP")
    assert (await tenant.check(country="kp", ip="192.0.2.1"))["code"] == "blocked"
    other = await tenant.node.tenant("Other")
    await block(tenant.owner, "block", "ip", "203.0.113.5")
    assert (await other.check(ip="203.0.113.5"))["allowed"]  # one tenant never blocks for another


async def test_a_tenant_can_require_keys(tenant: Tenant) -> None:
    await tenant.node.runtime.tenants.update(tenant.owner, tenant.id, TenantChanges(require_key=True))
    assert (await tenant.check(ip="192.0.2.1"))["code"] == "key_missing"
    assert (await tenant.check(ip="192.0.2.1", require_key=False))["code"] == "key_missing"


async def test_a_batch_answers_in_order_and_a_bad_item_spoils_only_itself(tenant: Tenant) -> None:
    _, secret = await make_key(tenant, rate_limits=(sliding(2),))
    good = {"api_key": secret, "method": "GET"}
    checks = [good, {"nonsense": 1}, good, good, 7]
    response = await tenant.post("/v1/check/batch", {"checks": checks})
    results = response.json()["results"]
    assert [result["code"] for result in results] == ["ok", "bad_request", "ok", "rate_limited", "bad_request"]
    assert "nonsense" in results[1]["message"]
    assert (await tenant.post("/v1/check/batch", {"checks": []})).json() == {"results": []}
    too_many = await tenant.post("/v1/check/batch", {"checks": [{}] * 1001})
    assert too_many.status_code == 422
    assert "1001" in too_many.json()["detail"]


@pytest.mark.parametrize("half", [r"\ud800", r"\uDFFF", r"\ud800\ud800", r"\\\udc00", r"\ud83d\u0041"])
async def test_half_a_character_as_javascript_writes_it_spoils_only_its_item(tenant: Tenant, half: str) -> None:
    whole = r"\ud83d\ude00 \\ud800"  # an emoji, and no escape
    checks = f'{{"checks": [{{"user_agent": "{whole}"}}, {{"user_agent": "x{half}y"}}, {{}}]}}'.encode()
    results = (await tenant.post("/v1/check/batch", checks)).json()["results"]
    assert [result["code"] for result in results] == ["ok", "bad_request", "ok"]
    decision = (await tenant.check(method="GET"))["decision_id"]
    event = json.dumps({"decision_id": decision, "status": 200, "latency_ms": 1})
    told = (await tenant.post("/v1/report", f'{{"events": [{{"decision_id": "{half}"}}, {event}]}}'.encode())).json()
    assert (told["accepted"], [each["index"] for each in told["rejected"]]) == (1, [0])
    assert (await tenant.post("/v1/check", f'{{"user_agent": "{half}"}}'.encode())).status_code == 400


async def test_a_report_counts_once_and_only_for_the_tenants_own_recent_decisions(
    tenant: Tenant, clock: ManualClock
) -> None:
    decision = (await tenant.check(method="GET"))["decision_id"]
    event = {"decision_id": decision, "status": 200, "latency_ms": 12.5}
    first = await tenant.post(
        "/v1/report", {"events": [event, event, {**event, "decision_id": "dec_x"}, {"status": 1}]}
    )
    assert first.status_code == 202
    body = first.json()
    assert (body["accepted"], body["duplicates"]) == (1, 1)
    assert [(each["index"], each["code"]) for each in body["rejected"]] == [(2, "decision_unknown"), (3, "bad_request")]
    stranger = await tenant.node.tenant("Other")
    foreign = (await stranger.post("/v1/report", {"events": [event]})).json()
    assert foreign["rejected"][0]["code"] == "decision_unknown"
    clock.advance(24 * 3600 + 1)
    late = (await tenant.post("/v1/report", {"events": [event]})).json()
    assert late["rejected"][0]["code"] == "report_too_old"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"latency_ms": None}, "latency_ms is missing."),
        ({"cost": {"requests": 1, "tokens": -1, "rows": 2}}, "cost.tokens: expected int >= 0."),
        ({"cost": {"tokens": 1, "rows": {"a": 1}}}, "cost.rows: expected int, got object."),
        ({"cost": {"tokens": 1, "Rows/~": 1}}, "cost.Rows/~: expected str matching regex"),
        ({"cost": -1}, "cost: expected int >= 0."),
        ({"cost": {"a": 2**70}}, "cost"),
        ({"lag`ency": 1}, "lag`ency is not a field that is known here."),
    ],
)
async def test_a_report_that_can_not_be_read_names_the_field_and_the_unit(
    tenant: Tenant, change: dict[str, Any], named: str
) -> None:
    event = {"decision_id": "dec_x", "status": 200, "latency_ms": 12.5} | change
    event = {name: value for name, value in event.items() if value is not None}
    (rejected,) = (await tenant.post("/v1/report", {"events": [event]})).json()["rejected"]
    assert rejected["message"].startswith(named)


async def test_a_cost_that_can_not_be_read_has_a_pointer_to_its_unit(tenant: Tenant) -> None:
    for unit, value, pointer in (("tokens", -1, "/cost/tokens"), ("a/b~", 1, "/cost/a~1b~0")):
        problem = (await tenant.post("/v1/check", {"path": "/a", "cost": {"requests": 1, unit: value}})).json()
        assert problem["code"] == "validation_failed"
        assert problem["errors"][0]["pointer"] == pointer


async def test_who_may_ask(tenant: Tenant, node: Node) -> None:
    _, caller = await make_key(tenant)
    viewer, viewer_secret = await node.runtime.tokens.create(tenant.owner, name="v", role=Role.VIEWER)
    _, second_service = await make_key(tenant, kind=KeyKind.SERVICE, scopes=())
    assert viewer.role == "viewer"
    question = {"method": "GET"}
    for credential, status, code in [
        (tenant.service_key, 200, "ok"),
        (second_service, 200, "ok"),
        (tenant.token, 200, "ok"),
        (viewer_secret, 403, "forbidden"),
        (caller, 401, "token_invalid"),
        ("nonsense", 401, "token_invalid"),
        (mistype(tenant.service_key), 401, "token_invalid"),
    ]:
        response = await tenant.post("/v1/check", question, credential)
        assert (response.status_code, response.json()["code"]) == (status, code), credential
    bare = await node.client.post("/v1/check", json=question)
    assert (bare.status_code, bare.json()["code"]) == (401, "token_missing")
    assert "WWW-Authenticate" in bare.headers
    other = await node.tenant("Other")
    named = await tenant.post("/v1/check", question, **{"X-APIShield-Tenant": other.id})
    assert named.status_code == 404
    leaked = await tenant.post(f"/v1/check?api_key={tenant.service_key}", question)
    assert (leaked.status_code, leaked.json()["code"]) == (400, "credential_in_query")


async def test_a_credential_that_ends_stops_to_ask_at_once(tenant: Tenant, node: Node, clock: ManualClock) -> None:
    key, service = await node.runtime.keys.create(tenant.owner, KeyDraft(name="s", kind=KeyKind.SERVICE))
    _, brief = await node.runtime.tokens.create(
        tenant.owner, name="b", role=Role.OWNER, expires_at_us=clock() + SECOND_US
    )
    for credential in (service, brief, tenant.token):
        assert (await tenant.post("/v1/check", {}, credential)).status_code == 200
    clock.advance(1)
    assert (await tenant.post("/v1/check", {}, brief)).status_code == 401
    await node.runtime.keys.update(tenant.owner, key.id, KeyChanges(enabled=False))
    assert (await tenant.post("/v1/check", {}, service)).status_code == 401
    await node.runtime.tenants.update(OPERATOR, tenant.id, TenantChanges(status="suspended"))
    suspended = await tenant.post("/v1/check", {}, tenant.token)
    assert (suspended.status_code, suspended.json()["code"]) == (403, "tenant_suspended")
    await node.runtime.tenants.delete(OPERATOR, tenant.id)
    assert (await tenant.post("/v1/check", {}, tenant.token)).status_code == 401


BAD_BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b'{"cost": NaN}', 400),
    (b'{"cost": 1e999}', 422),
    (b"[" * 100_000, 422),
    (b'{"attributes": ' + b'{"a":' * 2000 + b"1" + b"}" * 2001, 422),
    (b'{"path": "\\ud800"}', 400),
    (b"[]", 422),
    (b"null", 422),
    (b'{"cost": -1}', 422),
    (b'{"cost": 1.5}', 422),
    (b'{"cost": 1000000001}', 422),
    (b'{"cost": true}', 422),
    (b'{"cost": "1"}', 422),
    (b'{"cost": {"tokens": -1}}', 422),
    (b'{"cost": {}}', 422),
    (b'{"cost": 123456789012345678901234567890}', 422),
    (b'{"api_key": 7}', 422),
    (b'{"unknown": 1}', 422),
    (b'{"scopes": "read"}', 422),
    (b'{"attributes": {"a": 1}}', 422),
    (b'{"path": "' + b"a" * 2_000_000 + b'"}', 413),
    (b'{"api_key": "sk_live_\\u0000"}', 200),
    ('{"api_key": "sk_live_ключ", "path": "/ключ"}'.encode(), 200),
    (b'{"path": "/\\u0000"}', 200),
]


@pytest.mark.parametrize(("body", "status"), BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_a_bad_body_gets_an_answer_that_names_the_field(tenant: Tenant, body: bytes, status: int) -> None:
    response = await tenant.post("/v1/check", body)
    assert response.status_code == status, response.text
    if status == 422:
        assert response.json()["errors"][0]["message"]
    if status != 200:
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["request_id"] == response.headers["X-Request-Id"]


async def test_a_fault_is_pointed_at(tenant: Tenant) -> None:
    unknown = (await tenant.post("/v1/check", {"pathh": "/"})).json()
    assert unknown["errors"] == [{"pointer": "/pathh", "message": "is not a field that is known here"}]
    nested = (await tenant.post("/v1/check", {"cost": {"tokens": "many"}})).json()
    assert nested["errors"][0]["pointer"] == "/cost/tokens"
    empty = (await tenant.post("/v1/check", {"cost": {}})).json()
    assert empty["errors"][0]["pointer"] == "/cost"


async def test_other_content_types_are_refused(tenant: Tenant) -> None:
    form = await tenant.post("/v1/check", b"a=b", **{"Content-Type": "application/x-www-form-urlencoded"})
    assert form.status_code == 415


async def test_a_sane_request_id_is_taken_over(tenant: Tenant) -> None:
    taken = await tenant.post("/v1/check", {}, **{"X-Request-Id": "my-request-0001"})
    assert taken.headers["X-Request-Id"] == "my-request-0001"
    made = await tenant.post("/v1/check", {}, **{"X-Request-Id": "a b"})
    assert made.headers["X-Request-Id"].startswith("req_")
