"""Policies in shadow: they refuse nobody, and what they would have refused is told, counted and shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from apishield.errors import ProblemError
from apishield.services import shadow
from apishield.stores.sql.repositories import shadow as repository
from apishield.stores.sql.unit_of_work import UnitOfWork
from tests.api.support import Caller, Json, Service, Tenant, serving
from tests.support.clock import ManualClock


async def check(tenant: Tenant, **question: Any) -> Json:
    decision: Json = await Caller(tenant.client, tenant.service_key).ok("POST", "/v1/check", question)
    return decision


async def in_shadow(tenant: Tenant, **fields: Any) -> str:
    body = {"name": "p", "per": ["ip"], "limit": "2/hour", "mode": "shadow", **fields}
    return str((await tenant.ok("POST", "/v1/policies", body, status=201))["id"])


async def report(tenant: Tenant, policy_id: str) -> Json:
    found: Json = await tenant.ok("GET", f"/v1/policies/{policy_id}/shadow")
    return found


async def test_a_policy_in_shadow_refuses_nobody_and_tells_what_it_would_have_refused(alice: Tenant) -> None:
    policy_id = await in_shadow(alice)
    assert await report(alice, policy_id) == {
        "policy_id": policy_id,
        "since": None,
        "would_refuse": 0,
        "admitted": 0,
        "days": [],
        "subjects": [],
    }
    answers = [await check(alice, ip="192.0.2.1") for _ in range(5)]
    await check(alice, ip="192.0.2.2")
    assert all(answer["allowed"] for answer in answers)
    assert [answer["shadow"][0]["violated"] for answer in answers] == [False, False, True, True, True]
    assert '"p"' not in answers[0]["headers"]["RateLimit-Policy"]
    found = await report(alice, policy_id)
    assert (found["would_refuse"], found["admitted"]) == (3, 3)
    assert found["days"] == [{"day": "2026-11-18", "would_refuse": 3, "admitted": 3}]
    assert found["since"] == "2026-11-18T11:06:40Z"
    assert found["subjects"] == [{"subject": {"ip": "192.0.2.1"}, "would_refuse": 3}]


async def test_only_checks_that_were_let_through_count_and_no_questions(alice: Tenant) -> None:
    policy_id = await in_shadow(alice)
    body = {"name": "strict", "per": ["ip"], "limit": "3/hour"}
    await alice.ok("POST", "/v1/policies", body, status=201)
    for _ in range(9):
        await check(alice, ip="192.0.2.1")
        await check(alice, ip="192.0.2.1", cost=0)
    found = await report(alice, policy_id)
    assert (found["would_refuse"], found["admitted"]) == (1, 2)


async def test_counts_add_up_over_days_and_subjects_come_in_order(service: Service, alice: Tenant) -> None:
    policy_id = await in_shadow(alice, per=["attr:user_id", "endpoint"], limit="1/hour")
    for day in range(2):
        for user, times in (("u|1=x", 3), ("ünï", 5), ("x" * 100, 2)):
            for _ in range(times):
                await check(alice, attributes={"user_id": user}, method="GET", path="/x")
        await service.later(86_400 * (1 - day))
    found = await report(alice, policy_id)
    assert [(day["day"], day["would_refuse"]) for day in found["days"]] == [("2026-11-18", 7), ("2026-11-19", 7)]
    assert [each["would_refuse"] for each in found["subjects"]] == [8, 4, 2]
    first, second, third = (each["subject"] for each in found["subjects"])
    assert first == {"attr:user_id": "ünï", "endpoint": "GET *"}
    assert second["attr:user_id"] == "u|1=x"
    assert third["attr:user_id"].startswith("#")  # too long to be shown: its digest
    assert len(third["attr:user_id"]) == 41


async def test_a_change_of_what_the_policy_decides_begins_anew_and_a_change_of_its_name_does_not(alice: Tenant) -> None:
    policy_id = await in_shadow(alice)
    for _ in range(3):
        await check(alice, ip="192.0.2.1")
    await alice.ok("PATCH", f"/v1/policies/{policy_id}", {"name": "q"})
    assert (await report(alice, policy_id))["would_refuse"] == 1
    await alice.ok("PATCH", f"/v1/policies/{policy_id}", {"limit": "5/hour"})
    assert (await report(alice, policy_id))["would_refuse"] == 0
    await alice.ok("PATCH", f"/v1/policies/{policy_id}", {"mode": "enforce"})
    assert [(await check(alice, ip="192.0.2.1"))["allowed"] for _ in range(4)] == [True, True, True, False]
    assert (await report(alice, policy_id))["days"] == []


async def test_what_could_not_be_written_is_written_the_next_time(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy_id = await in_shadow(alice)
    for _ in range(3):
        await check(alice, ip="192.0.2.1")

    async def gone(*_: object) -> None:
        raise ProblemError("database_unavailable", "gone")

    with monkeypatch.context() as patched:
        patched.setattr(shadow.ShadowNotes, "write", gone)
        with pytest.raises(ProblemError):
            await service.runtime.usage.flush()
    await check(alice, ip="192.0.2.1")
    found = await report(alice, policy_id)
    assert (found["would_refuse"], found["admitted"]) == (2, 2)
    assert found["subjects"][0]["would_refuse"] == 2


async def test_what_is_just_being_written_is_waited_for(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy_id = await in_shadow(alice)
    for _ in range(3):
        await check(alice, ip="192.0.2.1")
    write, begun, may_go_on = shadow.ShadowNotes.write, asyncio.Event(), asyncio.Event()

    async def slowly(notes: shadow.ShadowNotes, tx: UnitOfWork) -> None:
        begun.set()
        await may_go_on.wait()
        await write(notes, tx)

    monkeypatch.setattr(shadow.ShadowNotes, "write", slowly)
    behind = asyncio.create_task(service.runtime.usage.flush())
    await begun.wait()
    asked = asyncio.create_task(report(alice, policy_id))
    for _ in range(20):
        await asyncio.sleep(0)
    may_go_on.set()
    assert (await asked)["would_refuse"] == 1
    await behind


async def test_the_use_of_a_quota_is_known_while_it_is_being_written(service: Service, clock: ManualClock) -> None:
    usage, database = service.runtime.usage, service.runtime.database
    usage.note("as:{ten_1}|live|lim_1|qu|key=k", 0, 7, clock.now_us)
    async with database.transaction():  # SQLite has one writer: this is in the way
        writing = asyncio.create_task(usage.flush())
        for _ in range(20):
            await asyncio.sleep(0)
        assert await usage.load(["as:{ten_1}|live|lim_1|qu|key=k"], 0) == {"as:{ten_1}|live|lim_1|qu|key=k": 7}
    await writing


async def test_counts_outlive_the_process(tmp_path: Path, clock: ManualClock) -> None:
    async with serving(tmp_path, clock) as service:
        alice = await service.tenant()
        policy_id = await in_shadow(alice)
        for _ in range(3):
            await check(alice, ip="192.0.2.1")
    async with serving(tmp_path, clock) as service:
        found = await Caller(service.client, alice.secret).ok("GET", f"/v1/policies/{policy_id}/shadow")
        assert found["would_refuse"] == 1


async def test_subjects_are_bounded_and_the_busiest_are_kept(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "SUBJECTS_KEPT", 3)
    policy_id = await in_shadow(alice, per=["attr:user_id"], limit="1/hour")
    for number in range(6):
        for _ in range(1 + number):
            await check(alice, attributes={"user_id": f"u{number}"})
        await service.runtime.usage.flush()
    found = await report(alice, policy_id)
    assert found["would_refuse"] == 15
    assert [each["subject"]["attr:user_id"] for each in found["subjects"]] == ["u5", "u4", "u3"]


async def test_who_it_was_is_forgotten_after_a_week_and_counts_after_a_quarter(service: Service, alice: Tenant) -> None:
    policy_id = await in_shadow(alice)
    for _ in range(3):
        await check(alice, ip="192.0.2.1")
    await service.runtime.usage.flush()
    for days, kept in ((7, (1, 1)), (1, (1, 0)), (82, (1, 0)), (1, (0, 0))):
        await service.later(86_400 * days)
        await service.runtime._keep_house()
        found = await report(alice, policy_id)
        assert (len(found["days"]), len(found["subjects"])) == kept, days


async def test_shadow_is_in_the_metrics_without_a_label_for_each_policy(service: Service, alice: Tenant) -> None:
    await in_shadow(alice)
    for _ in range(5):
        await check(alice, ip="192.0.2.1")
    shown = service.runtime.metrics.render()[0].decode()
    assert "apishield_shadow_would_refuse_total 3.0" in shown
    assert "apishield_shadow_admitted_total 2.0" in shown
