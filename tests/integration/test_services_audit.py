"""The audit log: complete, filtered, and no row of it can be changed unseen."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from apishield.errors import ProblemError
from apishield.services.audit import AuditReport
from apishield.services.blocks import BlockDraft
from apishield.services.key_drafts import KeyChanges, KeyDraft
from apishield.services.secrets import Secrets
from apishield.services.tenants import TenantChanges
from apishield.stores.sql.database import Database
from apishield.stores.sql.pagination import PageRequest
from apishield.stores.sql.repositories.audit import Event
from tests.support.clock import SECOND_US
from tests.support.control_plane import FIRST_PAGE, OPERATOR, ControlPlane
from tests.support.database import plain_url

COPY = (
    "INSERT INTO audit_entries SELECT tenant_id, {sequence}, id, at_us, actor, action, target, before, after, address, "
    "request_id, mac, mac FROM audit_entries WHERE sequence = 6"
)


async def tampered(plane: ControlPlane, statement: str) -> AuditReport:
    async with plane.database.transaction() as tx:
        result = await tx.connection.execute(text(statement))
        assert result.rowcount > 0
    return await plane.audit.verify()


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE audit_entries SET at_us = at_us + 1 WHERE sequence = 3", 3),
        ("UPDATE audit_entries SET actor = 'somebody' WHERE sequence = 4", 4),
        ("UPDATE audit_entries SET address = NULL WHERE sequence = 6", 6),
        ("UPDATE audit_entries SET address = '192.0.2.9' WHERE sequence = 5", 5),
        ("UPDATE audit_entries SET before = '{}' WHERE sequence = 1", 1),
        ("UPDATE audit_entries SET after = NULL WHERE sequence = 2", 2),
        ("UPDATE audit_entries SET after = replace(after, 'live', 'test') WHERE sequence = 5", 5),
        ("UPDATE audit_entries SET after = replace(after, ':', ': ') WHERE sequence = 5", 5),
        ("UPDATE audit_entries SET after = 'not json' WHERE sequence = 5", 5),
        ("UPDATE audit_entries SET mac = '1:00' WHERE sequence = 5", 5),
        ("UPDATE audit_entries SET mac = 'é' WHERE sequence = 5", 5),
        ("UPDATE audit_entries SET previous_mac = '' WHERE sequence = 2", 2),
        ("UPDATE audit_entries SET tenant_id = 'ten_other' WHERE sequence = 6", 6),
        ("UPDATE audit_entries SET sequence = 9 WHERE sequence = 3", 4),
        ("DELETE FROM audit_entries WHERE sequence = 1", 2),
        ("DELETE FROM audit_entries WHERE sequence = 4", 5),
        ("DELETE FROM audit_entries WHERE sequence = 6", 6),
        ("DELETE FROM audit_entries", 1),
        ("DELETE FROM audit_heads", 7),
        ("UPDATE audit_heads SET seal = '1:00'", 7),
        ("UPDATE audit_heads SET sequence = 7", 7),
        ("UPDATE audit_entries SET sequence = -3 WHERE sequence = 3", -3),
        (COPY.format(sequence=7), 7),
        (COPY.format(sequence=-7), -7),
        (COPY.format(sequence=0), 0),
    ],
)
async def test_whatever_is_changed_behind_our_back_is_found_where_it_was(
    plane: ControlPlane, statement: str, broken_at: int
) -> None:
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k"))
    await plane.keys.update(owner, key.id, KeyChanges(name="n"))
    whole = await plane.audit.verify()
    assert (whole.holds, whole.chains, whole.entries) == (True, 1, 6)
    report = await tampered(plane, statement)
    assert not report.holds
    assert report.breaks[0].sequence == broken_at


async def test_a_chain_that_was_removed_as_a_whole_is_missed(plane: ControlPlane) -> None:
    owner = await plane.owner()
    await tampered(plane, "DELETE FROM audit_entries")
    report = await tampered(plane, "DELETE FROM audit_heads")
    assert [(broken.tenant_id, broken.reason) for broken in report.breaks] == [
        (owner.tenant_id, "the head of the chain is missing")
    ]


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (
            [
                "DELETE FROM audit_entries WHERE sequence > 2",
                "UPDATE audit_heads SET mac = (SELECT e.mac FROM audit_entries e WHERE e.sequence = 2)",
                "UPDATE audit_heads SET sequence = 2, seal = '1:junk'",
            ],
            "the head was changed",
        ),
        (["DELETE FROM audit_entries", "DELETE FROM audit_heads"], "the head of the chain is missing"),
        (
            ["DELETE FROM audit_entries", "UPDATE audit_heads SET sequence = 0, mac = '', seal = ''"],
            "the head of the chain is missing",
        ),
        (["UPDATE audit_heads SET seal = ''"], "the head of the chain is missing"),
        (["DELETE FROM audit_entries WHERE sequence > 2"], "the chain ends at entry 2, its head says 5"),
        (["UPDATE audit_heads SET sequence = 1"], "the chain ends at entry 5, its head says 1"),
    ],
)
async def test_a_break_stays_in_the_log_when_the_log_goes_on(
    plane: ControlPlane, statements: list[str], reason: str
) -> None:
    """What is recorded next neither fails nor makes the chain look whole; what comes after the mark is proven again."""
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k"))
    for statement in statements:
        await tampered(plane, statement)
    await plane.keys.update(owner, key.id, KeyChanges(name="n"))
    await plane.keys.revoke(owner, key.id)
    breaks = (await plane.audit.verify()).breaks
    assert breaks[-1].reason == f"the chain was broken before this entry: {reason}"
    assert (await plane.actions(owner))[-3:] == ["audit.broken", "key.updated", "key.revoked"]
    await tampered(plane, "UPDATE audit_entries SET actor = 'x' WHERE action = 'key.revoked'")
    assert (await plane.audit.verify()).breaks[-1].reason == "the entry was changed"


async def test_an_entry_put_after_the_end_does_not_keep_the_log_from_going_on(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k"))
    await tampered(plane, COPY.replace("sequence = 6", "sequence = 5").format(sequence=6))
    await plane.keys.revoke(owner, key.id)
    assert not (await plane.audit.verify()).holds


async def test_a_chain_set_back_with_its_head_is_found_by_an_entry_that_was_seen_elsewhere(
    plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "apishield.audit"):
        owner = await plane.owner()
    chain, number, mac = caplog.messages[-1].removeprefix("audit log: ").split(":", 2)
    assert (chain, number) == (owner.tenant_id, "4")
    seen = {chain: {4: mac}}
    assert (await plane.audit.verify(expected=seen)).holds
    await plane.keys.create(owner, KeyDraft(name="k"))
    assert (await plane.audit.verify(expected=seen)).holds
    forged = (await plane.audit.verify(expected={chain: {4: "1:00"}})).breaks
    assert [broken.reason for broken in forged] == ["the entry is not the one that was seen before"]
    ahead = (await plane.audit.verify(expected={chain: {6: mac}})).breaks
    assert [broken.reason for broken in ahead] == ["the chain ends at entry 5, entry 6 was seen before"]
    assert not (await plane.audit.verify(expected={"ten_gone": {1: mac}})).holds


async def test_one_broken_chain_leaves_the_others_proven(plane: ControlPlane) -> None:
    owner, other = await plane.owner(), await plane.owner()
    await tampered(
        plane, f"UPDATE audit_entries SET actor = 'x' WHERE tenant_id = '{owner.tenant_id}' AND sequence = 2"
    )
    assert not (await plane.audit.verify(owner.tenant_id)).holds
    assert (await plane.audit.verify(other.tenant_id)).holds


async def test_changes_at_once_make_one_chain_that_holds(plane: ControlPlane) -> None:
    owner = await plane.owner()
    await asyncio.gather(*(plane.keys.create(owner, KeyDraft(name=str(n))) for n in range(20)))
    await asyncio.gather(
        *(plane.blocks.create(OPERATOR, BlockDraft(kind="ip", value=f"192.0.2.{n}")) for n in range(10))
    )
    report = await plane.audit.verify()
    assert (report.holds, report.chains, report.entries) == (True, 2, 34)


async def test_the_chain_goes_on_under_a_new_secret_and_needs_the_old_one_to_be_proven(plane: ControlPlane) -> None:
    owner = await plane.owner()
    assert owner.tenant_id is not None
    both = Secrets.parse("2:" + "bmV3ZXI0" * 8 + ",1:" + "c2VjcmV0" * 8)
    node = Database(plain_url(plane.database), plane.clock, audit_key=both.audit_key())
    rotated = ControlPlane(node, plane.clock, both)
    await rotated.tenants.update(owner, owner.tenant_id, TenantChanges(name="renamed"))
    assert (await rotated.audit.verify()).holds
    forgetful = ControlPlane(node, plane.clock, Secrets.parse("2:" + "bmV3ZXI0" * 8))
    report = await forgetful.audit.verify()
    assert report.breaks[0].reason == "signed with version '1' of the master secret, which is not given"
    await node.close()


async def test_a_long_chain_is_walked_to_its_end(plane: ControlPlane) -> None:
    owner = await plane.owner()
    async with plane.database.transaction() as tx:
        await tx.audit.record_many(owner, [Event("test", str(number)) for number in range(1100)])
    report = await plane.audit.verify(owner.tenant_id)
    assert (report.holds, report.entries) == (True, 1104)


async def test_the_log_is_filtered_and_paged(plane: ControlPlane) -> None:
    owner = await plane.owner()
    start_us = plane.clock.now_us
    plane.clock.advance(10)
    key, _ = await plane.keys.create(owner, KeyDraft(name="k"))
    plane.clock.advance(10)
    await plane.keys.revoke(owner, key.id)

    async def actions(**filters: object) -> list[str]:
        return [entry.action for entry in (await plane.audit.list(owner, FIRST_PAGE, **filters)).items]  # type: ignore[arg-type]

    assert await actions(target=key.id) == ["key.revoked", "key.created"]
    assert await actions(action="key.*") == ["key.revoked", "key.created", "key.created"]
    assert await actions(action="key.revoked") == ["key.revoked"]
    assert await actions(actor_id="operator") == ["policy.created", "key.created", "token.created", "tenant.created"]
    assert await actions(actor_id=owner.id, to_us=start_us + 20 * SECOND_US) == ["key.created"]
    assert await actions(from_us=start_us + 20 * SECOND_US) == ["key.revoked"]
    seen: list[int] = []
    cursor: str | None = None
    while True:
        page = await plane.audit.list(owner, PageRequest(4, cursor))
        seen += [entry.sequence for entry in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [6, 5, 4, 3, 2, 1]
    for wrong in (FIRST_PAGE.cursor or "x", "a2V5czprZXlfMQ"):
        with pytest.raises(ProblemError) as caught:
            await plane.audit.list(owner, PageRequest(4, wrong))
        assert caught.value.code == "invalid_cursor"


async def test_a_tenant_sees_its_own_log_only(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k"))
    assert (await plane.audit.list(stranger, FIRST_PAGE, target=key.id)).items == []
    assert {entry.tenant_id for entry in (await plane.audit.list(owner, FIRST_PAGE)).items} == {owner.tenant_id}
