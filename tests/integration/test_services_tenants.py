"""Tenants and tokens: what a sign-up gives, who may see and change what, and how they end."""

from __future__ import annotations

import msgspec
import pytest

from apishield.core.key_manager.hashing import digest
from apishield.core.model import SlidingWindow
from apishield.core.records import Actor, KeyKind, Match, Role
from apishield.errors import ProblemError
from apishield.services.base import Ceilings
from apishield.services.tenants import TenantChanges
from tests.support.clock import SECOND_US
from tests.support.control_plane import FIRST_PAGE, OPERATOR, ControlPlane

VISITOR = Actor(id="anonymous", role=None, tenant_id=None)


def as_token(actor: Actor, role: Role, *, expires_at_us: int | None = None) -> Actor:
    return msgspec.structs.replace(actor, role=role, expires_at_us=expires_at_us)


async def test_a_sign_up_gives_a_tenant_a_token_a_service_key_and_a_policy_for_callers_without_a_key(
    plane: ControlPlane,
) -> None:
    created = await plane.tenants.create(VISITOR, name="My App", metadata={"team": "a"})
    owner = Actor(id=created.token.id, role=Role.OWNER, tenant_id=created.tenant.id)
    assert await plane.tenants.get(owner, created.tenant.id) == created.tenant
    assert (created.tenant.plan, created.tenant.status) == ("starter", "active")
    assert (created.token.role, created.token.expires_at_us) == (Role.OWNER, None)
    assert created.key.kind is KeyKind.SERVICE
    assert created.key_secret.startswith("sk_live_")
    assert created.token_secret.startswith("ast_")
    (policy,) = (await plane.policies.list(owner, FIRST_PAGE)).items
    assert (policy.name, policy.match, policy.per) == ("anonymous", Match(caller="anonymous"), ("ip",))
    assert policy.limit.algorithm == SlidingWindow(60, 60 * SECOND_US)
    rows = await plane.database.feed.load()
    assert {secret.digest for secret in (*rows.key_secrets, *rows.token_secrets)} == {
        digest(plane.secrets.pepper(), created.key_secret),
        digest(plane.secrets.pepper(), created.token_secret),
    }
    assert await plane.actions(owner) == ["tenant.created", "token.created", "key.created", "policy.created"]


async def test_a_visitor_may_choose_only_plans_for_everybody(plane: ControlPlane) -> None:
    with pytest.raises(ProblemError) as caught:
        await plane.tenants.create(VISITOR, name="My App", plan="enterprise")
    assert caught.value.faults[0].pointer == "/plan"
    created = await plane.tenants.create(OPERATOR, name="My App", plan="enterprise")
    assert created.tenant.plan == "enterprise"


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        (TenantChanges(name=""), "/name"),
        (TenantChanges(name="a\0b"), "/name"),
        (TenantChanges(name="\ud800"), "/name"),
        (TenantChanges(name="a\nb"), "/name"),
        (TenantChanges(name="x" * 201), "/name"),
        (TenantChanges(time_zone="Mars/Olympus"), "/time_zone"),
        (TenantChanges(metadata={"x": "y" * 16_384}), "/metadata"),
        (TenantChanges(metadata={"x": float("nan")}), "/metadata"),
        (TenantChanges(metadata={"x": "\ud800"}), "/metadata"),
        (TenantChanges(metadata={"\ud800": 1}), "/metadata"),
        (TenantChanges(plan="No Plan"), "/plan"),
    ],
)
async def test_what_can_not_be_kept_is_refused_by_its_field(
    plane: ControlPlane, changes: TenantChanges, pointer: str
) -> None:
    owner = await plane.owner()
    assert owner.tenant_id is not None
    with pytest.raises(ProblemError) as caught:
        await plane.tenants.update(OPERATOR, owner.tenant_id, changes)
    assert caught.value.status == 422
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


async def test_a_change_keeps_what_it_does_not_name_and_is_audited_as_a_difference(plane: ControlPlane) -> None:
    owner = await plane.owner()
    assert owner.tenant_id is not None
    before = await plane.tenants.get(owner, owner.tenant_id)
    plane.clock.advance(1)
    metadata = {"nul": "\0", "deep": [{"a": [1, 2.5, None, True, 2**63 - 1]}]}
    after = await plane.tenants.update(owner, owner.tenant_id, TenantChanges(require_key=True, metadata=metadata))
    assert after == msgspec.structs.replace(
        before, require_key=True, metadata=metadata, updated_at_us=plane.clock.now_us
    )
    assert await plane.tenants.get(owner, owner.tenant_id) == after
    entry = (await plane.audit.list(owner, FIRST_PAGE)).items[0]
    assert entry.before == {"require_key": False, "metadata": None}
    assert entry.after is not None
    assert entry.after["require_key"] is True
    assert "deep" not in str(entry.after)


@pytest.mark.parametrize("changes", [TenantChanges(plan="pro"), TenantChanges(status="suspended")])
async def test_plan_and_status_are_the_operators(plane: ControlPlane, changes: TenantChanges) -> None:
    owner = await plane.owner()
    assert owner.tenant_id is not None
    with pytest.raises(ProblemError) as caught:
        await plane.tenants.update(owner, owner.tenant_id, changes)
    assert caught.value.code == "forbidden"
    await plane.tenants.update(OPERATOR, owner.tenant_id, changes)


async def test_another_tenant_is_not_there(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    assert owner.tenant_id is not None
    for attempt in (
        plane.tenants.get(stranger, owner.tenant_id),
        plane.tenants.update(stranger, owner.tenant_id, TenantChanges(name="stolen")),
        plane.tenants.get(stranger, "ten_none"),
    ):
        with pytest.raises(ProblemError) as caught:
            await attempt
        assert caught.value.code == "not_found"
    with pytest.raises(ProblemError, match="Only the operator deletes tenants"):
        await plane.tenants.delete(stranger, owner.tenant_id)
    with pytest.raises(ProblemError, match="Only the operator lists tenants"):
        await plane.tenants.list(stranger, FIRST_PAGE)


async def test_a_deleted_tenant_is_gone_at_once_with_its_credentials_and_keeps_its_log(plane: ControlPlane) -> None:
    owner, other = await plane.owner(), await plane.owner()
    assert owner.tenant_id is not None
    await plane.tenants.delete(OPERATOR, owner.tenant_id)
    with pytest.raises(ProblemError) as caught:
        await plane.tenants.get(owner, owner.tenant_id)
    assert caught.value.code == "not_found"
    with pytest.raises(ProblemError):
        await plane.tokens.create(owner, name="too late", role=Role.VIEWER)
    assert [tenant.id for tenant in (await plane.tenants.list(OPERATOR, FIRST_PAGE)).items] == [other.tenant_id]
    operator_there = msgspec.structs.replace(OPERATOR, tenant_id=owner.tenant_id)
    assert (await plane.actions(operator_there))[-1] == "tenant.deleted"
    async with plane.database.read() as tx:
        rows = await tx.connection.exec_driver_sql("SELECT DISTINCT tenant_id FROM secrets")
        assert [row[0] for row in rows] == [other.tenant_id]


async def test_a_token_never_outlives_or_outranks_its_maker(plane: ControlPlane) -> None:
    owner = await plane.owner()
    end_us = plane.clock.now_us + 60 * SECOND_US
    short = as_token(owner, Role.OWNER, expires_at_us=end_us)
    token, _ = await plane.tokens.create(short, name="no expiry asked", role=Role.VIEWER)
    assert token.expires_at_us == end_us
    token, _ = await plane.tokens.create(short, name="shorter", role=Role.OWNER, expires_at_us=end_us - 1)
    assert token.expires_at_us == end_us - 1
    with pytest.raises(ProblemError) as caught:
        await plane.tokens.create(short, name="longer", role=Role.VIEWER, expires_at_us=end_us + 1)
    assert caught.value.faults[0].pointer == "/expires_at"
    for maker, role in [
        (Role.VIEWER, Role.VIEWER), (Role.VIEWER, Role.OWNER), (Role.SERVICE, Role.VIEWER), (None, Role.VIEWER),
        (Role.OWNER, Role.OPERATOR), (Role.OPERATOR, Role.OPERATOR), (Role.OWNER, Role.SERVICE),
    ]:  # fmt: skip
        with pytest.raises(ProblemError) as caught:
            await plane.tokens.create(msgspec.structs.replace(owner, role=maker), name="x", role=role)
        assert caught.value.code == "forbidden"


async def test_an_expiry_in_the_past_is_refused(plane: ControlPlane) -> None:
    owner = await plane.owner()
    for expires_at_us in (plane.clock.now_us, 0, -1, 10**18):
        with pytest.raises(ProblemError) as caught:
            await plane.tokens.create(owner, name="x", role=Role.VIEWER, expires_at_us=expires_at_us)
        assert caught.value.faults[0].pointer == "/expires_at"


async def test_a_revoked_token_stays_revoked_and_another_tenants_is_not_there(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    token, _ = await plane.tokens.create(owner, name="ci", role=Role.VIEWER)
    revoked = await plane.tokens.revoke(owner, token.id)
    plane.clock.advance(1)
    assert await plane.tokens.revoke(owner, token.id) == revoked
    assert (await plane.actions(owner)).count("token.revoked") == 1
    with pytest.raises(ProblemError) as caught:
        await plane.tokens.revoke(stranger, token.id)
    assert caught.value.code == "not_found"
    listed = (await plane.tokens.list(owner, FIRST_PAGE)).items
    assert {token.name: token.revoked_at_us is not None for token in listed} == {"ci": True, "First token": False}


async def test_an_operator_who_names_no_tenant_is_told_so(plane: ControlPlane) -> None:
    with pytest.raises(ProblemError) as caught:
        await plane.tokens.create(OPERATOR, name="x", role=Role.OWNER)
    assert caught.value.code == "tenant_required"


async def test_tokens_have_a_ceiling(plane: ControlPlane) -> None:
    small = ControlPlane(plane.database, plane.clock, ceilings=Ceilings(tokens=2))
    owner = await small.owner()
    await small.tokens.create(owner, name="second", role=Role.VIEWER)
    with pytest.raises(ProblemError) as caught:
        await small.tokens.create(owner, name="third", role=Role.VIEWER)
    assert caught.value.code == "ceiling_reached"


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_a_token_that_has_ended_makes_room_for_another(plane: ControlPlane, end: str) -> None:
    small = ControlPlane(plane.database, plane.clock, ceilings=Ceilings(tokens=2))
    owner = await small.owner()
    for _ in range(4):
        end_us = plane.clock.now_us + 1
        token, _ = await small.tokens.create(owner, name="short", role=Role.VIEWER, expires_at_us=end_us)
        with pytest.raises(ProblemError) as caught:
            await small.tokens.create(owner, name="one too many", role=Role.VIEWER)
        assert caught.value.code == "ceiling_reached"
        if end == "revoked":
            await small.tokens.revoke(owner, token.id)
        else:
            plane.clock.now_us = end_us
