"""Policies: limits, whom they apply to and what they count by."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from apishield.core.model import Limit, Mode
from apishield.core.records import Actor, Match, Override, Policy
from apishield.errors import Fault, ProblemError
from apishield.services import policy_checks
from apishield.services.aside import aside
from apishield.services.audited import Audited
from apishield.services.base import (
    Service,
    differing,
    given,
    hold_tenant,
    is_unchanged,
    not_found,
    refuse_over,
    tenant_of,
)
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.unit_of_work import UnitOfWork

MAX_LIMIT_NAME_CHARACTERS = 64

_DECIDING = (
    "match",
    "per",
    "limit",
    "cost",
    "mode",
    "overrides",
)  # another policy: what it would refuse is counted anew


class PolicyDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A policy to be made. Its name is unique within the tenant."""

    name: str
    per: tuple[str, ...]
    limit: Limit
    match: Match = Match()
    cost: int = 1
    mode: Mode = Mode.ENFORCE
    enabled: bool = True
    overrides: tuple[Override, ...] = ()


class PolicyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What to change; what is absent stays. The limit keeps its id, and so its state."""

    name: str | UnsetType = UNSET
    per: tuple[str, ...] | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET
    match: Match | UnsetType = UNSET
    cost: int | UnsetType = UNSET
    mode: Mode | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    overrides: tuple[Override, ...] | UnsetType = UNSET


class PolicyService(Service):
    """A tenant's policies."""

    async def create(self, actor: Actor, draft: PolicyDraft) -> Policy:
        """Makes a policy."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            fields = {name: getattr(draft, name) for name in draft.__struct_fields__}
            policy = Policy(
                id=tx.new_id("pol"), tenant_id=tenant.id, created_at_us=tx.now_us, updated_at_us=tx.now_us, **fields
            )
            policy = await self._checked(tx, policy, None)
            if await tx.policies.count(tenant.id, at_most=self._ceilings.policies) >= self._ceilings.policies:
                raise refuse_over(self._ceilings.policies, "policies")
            await tx.policies.insert(tenant.id, policy)
            tx.changed("policy", tenant.id, policy.id)
            shown = await aside(len(policy.overrides), lambda: Audited(self._secrets).policy(policy))
            await tx.audit.record(actor, action="policy.created", target=policy.id, after=shown)
        return policy

    async def get(self, actor: Actor, policy_id: str) -> Policy:
        """The policy."""
        async with self._database.read() as tx:
            return await _existing(tx, tenant_of(actor), policy_id)

    async def list(self, actor: Actor, page: PageRequest) -> Page[Policy]:
        """The tenant's policies, newest first."""
        async with self._database.read() as tx:
            return await tx.policies.page(tenant_of(actor), page)

    async def update(self, actor: Actor, policy_id: str, changes: PolicyChanges) -> Policy:
        """Changes a policy."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            before = await _existing(tx, tenant.id, policy_id)
            after = msgspec.structs.replace(before, updated_at_us=tx.now_us, **given(changes))
            after = await self._checked(tx, after, before)
            if is_unchanged(before, after):
                return before
            if any(getattr(after, name) != getattr(before, name) for name in _DECIDING):
                await tx.shadow.forget(tenant.id, policy_id)
            await tx.policies.replace(tenant.id, after)
            tx.changed("policy", tenant.id, policy_id)
            audited, overrides = Audited(self._secrets), len(before.overrides) + len(after.overrides)
            was, now_is = await aside(overrides, lambda: differing(audited.policy(before), audited.policy(after)))
            await tx.audit.record(actor, action="policy.updated", target=policy_id, before=was, after=now_is)
        return after

    async def delete(self, actor: Actor, policy_id: str) -> None:
        """Removes a policy."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            policy = await _existing(tx, tenant.id, policy_id)
            await tx.policies.delete(tenant.id, policy_id)
            await tx.shadow.forget(tenant.id, policy_id)
            tx.changed("policy", tenant.id, policy_id)
            shown = Audited(self._secrets).policy(policy)
            await tx.audit.record(actor, action="policy.deleted", target=policy_id, before=shown)

    async def _checked(self, tx: UnitOfWork, policy: Policy, previous: Policy | None) -> Policy:
        """The policy in its one spelling, its limits with their id: changed numbers keep their state, an override's too."""
        limit_id = previous.limit.id if previous else tx.new_id("lim")
        draft = policy
        policy = await aside(len(policy.overrides), lambda: _named(policy_checks.checked(draft), limit_id))
        other = await tx.policies.named(policy.tenant_id, policy.name)
        if other not in {None, policy.id}:
            raise ProblemError(
                "conflict",
                f"The policy {other} has the name {policy.name!r}. Change that one, or give another name.",
                faults=[Fault("/name", f"is {other}'s")],
            )
        if len(policy.overrides) > (len(previous.overrides) if previous else 0):
            others = await tx.policies.overrides_besides(policy.tenant_id, policy.id)
            if others + len(policy.overrides) > self._ceilings.overrides:
                raise refuse_over(self._ceilings.overrides, "overrides", has=others)
        return policy


async def _existing(tx: UnitOfWork, tenant_id: str, policy_id: str) -> Policy:
    policy = await tx.policies.get(tenant_id, policy_id)
    if policy is None:
        raise not_found("policy", policy_id)
    return policy


def _named(policy: Policy, limit_id: str) -> Policy:
    """The policy, whose limits have the one id, and are called as it is where they have no name of their own.

    An override counts where its policy does: what a subject used stays used when its override begins or ends.
    """
    name = policy.limit.name or policy.name[:MAX_LIMIT_NAME_CHARACTERS].strip()
    limit = msgspec.structs.replace(policy.limit, id=limit_id, name=name)
    overrides = tuple(
        msgspec.structs.replace(
            override, limit=msgspec.structs.replace(override.limit, id=limit_id, name=override.limit.name or name)
        )
        for override in policy.overrides
    )
    return msgspec.structs.replace(policy, limit=limit, overrides=overrides)
