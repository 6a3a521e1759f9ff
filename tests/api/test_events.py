"""Every decision, result and settlement is an event in the spool before anybody is told of it; no secret is in any of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from apishield.core.events import (
    CATALOGUED,
    HELD,
    MAX_ATTRIBUTE,
    MAX_ATTRIBUTES,
    MAX_PATH,
    MAX_USER_AGENT,
    PEEK,
    TEST,
    DecisionEvent,
    Event,
    ResultEvent,
    SettlementEvent,
)
from apishield.core.model import SECOND_US
from apishield.core.records import Environment
from apishield.services.endpoints import EndpointDraft
from apishield.services.settlement import Settled
from apishield.stores.spool import Spools
from apishield.stores.spool.writer import DEFAULT_BYTES
from tests.support.checks import make_key, node, sliding, tenant  # noqa: F401
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, running_node


def written(data_dir: Path) -> list[Event]:
    """All events in the spools of a node."""
    readers = Spools(data_dir / "spool", max_bytes=DEFAULT_BYTES).readers()
    return [event for reader in readers for frame in reader.read(0)[0].frames for event in frame.events()]


async def test_a_decision_is_written_before_it_is_told(node: Node, tenant: Tenant, tmp_path: Path) -> None:  # noqa: F811
    key_id, secret = await make_key(tenant, rate_limits=(sliding(1),))
    told = [
        await tenant.check(api_key=secret, ip="203.0.113.9", method="get", path="/orders/7?token=x", country="de")
        for _ in range(2)
    ]
    events = written(tmp_path)
    assert [type(event) for event in events] == [DecisionEvent] * 2
    first, second = (event for event in events if isinstance(event, DecisionEvent))
    assert (first.tenant_id, first.key_id, first.code, first.units) == (tenant.id, key_id, "ok", 1)
    assert (first.method, first.path, first.address, first.country) == ("GET", "/orders/7", "203.0.113.9", "DE")
    assert (second.code, second.message) == ("rate_limited", told[1]["message"])
    assert second.refusal is not None
    assert (second.refusal.limit, second.refusal.ceiling) == ("default", 1)
    assert second.refusal.retry_after_us == round(told[1]["retry_after"] * SECOND_US)
    assert second.sequence == first.sequence + 1
    assert secret not in repr(events)
    assert "token=x" not in repr(events)


async def test_an_event_says_what_kind_of_check_it_was(node: Node, tenant: Tenant, tmp_path: Path) -> None:  # noqa: F811
    await node.runtime.endpoints.create(tenant.owner, EndpointDraft(method="GET", path="/orders/{id}", cost=3))
    _, secret = await make_key(tenant, environment=Environment.TEST, rate_limits=(sliding(100),))
    await tenant.check(api_key=secret, method="GET", path="/orders/7")
    await tenant.check(api_key=secret, cost=0)
    await tenant.check(api_key=secret, cost={"tokens": 5}, reserve=True)
    catalogued, peek, held = (event for event in written(tmp_path) if isinstance(event, DecisionEvent))
    assert (catalogued.flags, catalogued.endpoint, catalogued.units) == (TEST | CATALOGUED, "/orders/{id}", 3)
    assert (peek.flags, peek.units) == (TEST | PEEK, 0)
    assert (held.flags, held.units) == (TEST | HELD, {"tokens": 5})


async def test_what_strangers_send_is_bounded_and_makes_no_series(
    node: Node,  # noqa: F811
    tenant: Tenant,  # noqa: F811
    tmp_path: Path,
) -> None:
    await tenant.check(
        method="BREW",
        path="/" + "x" * 4000,
        country="Atlantis",
        user_agent="u" * 5000,
        attributes={f"{number}" + "n" * 500: "v" * 500 for number in range(20)},
    )
    (event,) = (event for event in written(tmp_path) if isinstance(event, DecisionEvent))
    assert (event.method, event.country) == ("OTHER", None)
    assert event.path is not None
    assert event.user_agent is not None
    assert (len(event.path), len(event.user_agent)) == (MAX_PATH, MAX_USER_AGENT)
    assert event.attributes is not None
    assert len(event.attributes) == MAX_ATTRIBUTES
    assert {len(text) for pair in event.attributes.items() for text in pair} == {MAX_ATTRIBUTE}


async def test_a_credential_in_the_wrong_place_is_not_kept(
    node: Node,  # noqa: F811
    tenant: Tenant,  # noqa: F811
    tmp_path: Path,
) -> None:
    _, secret = await make_key(tenant)
    for wrong in ({"ip": secret}, {"method": secret[:31]}, {"user_agent": secret}, {"attributes": {"authorization": secret}},
                  {"path": f"/keys/{secret}"}):  # fmt: skip
        await tenant.check(**wrong)
    events = written(tmp_path)
    assert len(events) == 5
    assert secret[8:20] not in repr(events)
    assert secret[8:20].upper() not in repr(events)


async def test_results_and_settlements_name_the_decision(node: Node, tenant: Tenant, tmp_path: Path) -> None:  # noqa: F811
    _, secret = await make_key(tenant, rate_limits=(sliding(100),))
    decided = await tenant.check(api_key=secret, cost=10, reserve=True)
    given_back = await tenant.check(api_key=secret, cost=10, reserve=True)
    report = {"decision_id": decided["decision_id"], "status": 200, "latency_ms": 12.5, "bytes": 9, "cost": 4}
    for _ in range(2):
        await tenant.post("/v1/report", {"events": [report]})
        await tenant.post(f"/v1/decisions/{given_back['decision_id']}/release", b"")
    first, second, *others = written(tmp_path)
    assert isinstance(first, DecisionEvent)
    assert isinstance(second, DecisionEvent)
    results = [event for event in others if isinstance(event, ResultEvent)]
    settled = [event for event in others if isinstance(event, SettlementEvent)]
    assert [(event.sequence, event.status, event.latency_us, event.bytes) for event in results] == [
        (first.sequence, 200, 12_500, 9)
    ]
    assert [(event.sequence, event.units, event.released) for event in settled] == [
        (first.sequence, {"requests": 4}, False),
        (second.sequence, {}, True),
    ]


async def test_the_spool_outlives_the_node(clock: ManualClock, tmp_path: Path) -> None:
    async with running_node(tmp_path, clock, ledger="off") as running:
        await (await running.tenant()).check()
    assert len(written(tmp_path)) == 1


async def test_a_result_that_comes_with_a_cost_too_late_is_written_all_the_same(
    node: Node,  # noqa: F811
    tenant: Tenant,  # noqa: F811
    tmp_path: Path,
) -> None:
    _, secret = await make_key(tenant, rate_limits=(sliding(100),))
    decision = await tenant.check(api_key=secret, cost=10, reserve=True)
    released = await tenant.post(f"/v1/decisions/{decision['decision_id']}/release", {})
    assert released.json()["released"]
    report = {"decision_id": decision["decision_id"], "status": 502, "latency_ms": 3, "cost": 4}
    told = [(await tenant.post("/v1/report", {"events": [report]})).json() for _ in range(2)]
    assert [[each["code"] for each in answer["rejected"]] for answer in told] == [["not_reserved"]] * 2
    results = [event for event in written(tmp_path) if isinstance(event, ResultEvent)]
    assert [(result.status, result.latency_us) for result in results] == [(502, 3000)]


async def test_a_report_that_is_known_already_is_written_before_that_is_answered(
    node: Node,  # noqa: F811
    tenant: Tenant,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, secret = await make_key(tenant, rate_limits=(sliding(100),))
    plain, held = await tenant.check(api_key=secret), await tenant.check(api_key=secret, reserve=True)
    reports = [{"decision_id": decision["decision_id"], "status": 200, "latency_ms": 1} for decision in (plain, held)]
    settling, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*_: object) -> Settled:
        settling.set()
        await go_on.wait()
        return Settled.NOW

    monkeypatch.setattr(node.runtime.settlement, "settle", slow)
    first = asyncio.create_task(tenant.post("/v1/report", {"events": reports}))
    await settling.wait()
    assert (await tenant.post("/v1/report", {"events": reports[:1]})).json()["duplicates"] == 1
    assert [type(event) for event in written(tmp_path)] == [DecisionEvent, DecisionEvent, ResultEvent]
    go_on.set()
    assert (await first).json()["accepted"] == 2
    assert len(written(tmp_path)) == 4
