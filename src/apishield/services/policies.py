"""Policies: limits, whom they apply to and what they count by."""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET, UnsetType

from apishield.core import path_index
from apishield.core.model import MAX_UNITS, Limit, Mode
from apishield.core.records import Actor, Match, Override, Policy
from apishield.errors import Fault, ProblemError
from apishield.services.audited import Audited
from apishield.services.base import Service, differing, given, hold_tenant, not_found, refuse_over, tenant_of
from apishield.services.checks import Faults, is_quota
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.unit_of_work import UnitOfWork

SUBJECTS = ("key", "ip", "endpoint", "tenant", "customer")
MAX_LIMIT_NAME_CHARACTERS = 64
MAX_OVERRIDES = 10_000
MAX_METHODS = 32
MAX_ATTRIBUTES = 32

_ATTRIBUTE = re.compile(r"attr:[A-Za-z0-9_.-]{1,64}")
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")


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
            policy = await _checked(tx, policy, None)
            if await tx.policies.count(tenant.id, at_most=self._ceilings.policies) >= self._ceilings.policies:
                raise refuse_over(self._ceilings.policies, "policies")
            await tx.policies.insert(tenant.id, policy)
            tx.changed("policy", tenant.id, policy.id)
            shown = Audited(self._secrets).policy(policy)
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
            after = await _checked(tx, after, before)
            await tx.policies.replace(tenant.id, after)
            tx.changed("policy", tenant.id, policy_id)
            audited = Audited(self._secrets)
            was, now_is = differing(audited.policy(before), audited.policy(after))
            await tx.audit.record(actor, action="policy.updated", target=policy_id, before=was, after=now_is)
        return after

    async def delete(self, actor: Actor, policy_id: str) -> None:
        """Removes a policy."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            policy = await _existing(tx, tenant.id, policy_id)
            await tx.policies.delete(tenant.id, policy_id)
            tx.changed("policy", tenant.id, policy_id)
            shown = Audited(self._secrets).policy(policy)
            await tx.audit.record(actor, action="policy.deleted", target=policy_id, before=shown)


async def _existing(tx: UnitOfWork, tenant_id: str, policy_id: str) -> Policy:
    policy = await tx.policies.get(tenant_id, policy_id)
    if policy is None:
        raise not_found("policy", policy_id)
    return policy


async def _checked(tx: UnitOfWork, policy: Policy, previous: Policy | None) -> Policy:
    policy = _named(policy)
    faults = Faults()
    faults.text("/name", policy.name)
    _check_per(policy.per, faults)
    _check_match(policy.match, faults)
    faults.limit("/limit", policy.limit)
    if is_quota(policy.limit):
        faults.add("/limit", "follows the calendar: quotas belong to keys", "invalid_limit")
    if not 0 <= policy.cost <= MAX_UNITS:
        faults.add("/cost", f"must be 0 to {MAX_UNITS:,}, is {policy.cost}")
    if len(policy.overrides) > MAX_OVERRIDES:
        faults.add("/overrides", f"has {len(policy.overrides):,} entries; at most {MAX_OVERRIDES:,} are kept")
    overrides = _with_ids(tx, policy, previous, faults)
    faults.raise_any()
    other = await tx.policies.by_name(policy.tenant_id, policy.name)
    if other is not None and other.id != policy.id:
        raise ProblemError(
            "conflict",
            f"The policy {other.id} has the name {policy.name!r}. Change that one, or give another name.",
            faults=[Fault("/name", f"is {other.id}'s")],
        )
    limit_id = previous.limit.id if previous else tx.new_id("lim")
    return msgspec.structs.replace(
        policy, limit=msgspec.structs.replace(policy.limit, id=limit_id), overrides=overrides
    )


def _named(policy: Policy) -> Policy:
    """The policy, whose limits are called as it is where they have no name of their own."""
    name = policy.limit.name or policy.name[:MAX_LIMIT_NAME_CHARACTERS].strip()
    overrides = tuple(
        msgspec.structs.replace(
            override, limit=msgspec.structs.replace(override.limit, name=override.limit.name or name)
        )
        for override in policy.overrides
    )
    return msgspec.structs.replace(policy, limit=msgspec.structs.replace(policy.limit, name=name), overrides=overrides)


def _check_per(per: tuple[str, ...], faults: Faults) -> None:
    if not per:
        faults.add("/per", f"names nothing to count by; give at least one of {', '.join(SUBJECTS)} or attr:<name>")
    for place, subject in enumerate(per):
        if subject not in SUBJECTS and _ATTRIBUTE.fullmatch(subject) is None:
            faults.add(f"/per/{place}", f"{subject[:64]!a} is none of {', '.join(SUBJECTS)} or attr:<name>")
        if subject in per[:place]:
            faults.add(f"/per/{place}", f"{subject[:64]!a} is there twice")


def _check_match(match: Match, faults: Faults) -> None:
    if len(match.methods) > MAX_METHODS:
        faults.add("/match/methods", f"has {len(match.methods)} methods; at most {MAX_METHODS} are kept")
    for place, method in enumerate(match.methods):
        if _METHOD.fullmatch(method) is None:
            faults.add(f"/match/methods/{place}", f"{method[:64]!a} is not a method such as GET")
    if match.path is not None:
        faults.text("/match/path", match.path, longest=1024)
        fault = path_index.fault(match.path)
        if fault is not None:
            faults.add("/match/path", fault)
    faults.scopes("/match/scopes", match.scopes)
    if match.plan is not None:
        faults.text("/match/plan", match.plan, longest=64)
    if len(match.attributes) > MAX_ATTRIBUTES:
        faults.add("/match/attributes", f"has {len(match.attributes)} entries; at most {MAX_ATTRIBUTES} are kept")
    for name, value in match.attributes.items():
        faults.text(f"/match/attributes/{name[:64]}", name, longest=64)
        faults.text(f"/match/attributes/{name[:64]}", value, longest=256)


def _with_ids(tx: UnitOfWork, policy: Policy, previous: Policy | None, faults: Faults) -> tuple[Override, ...]:
    """The overrides with ids of limits: one for the same subject as before keeps its id, and so its state."""
    ids = {_subject(override): override.limit.id for override in (previous.overrides if previous else ())}
    kept: list[Override] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    for place, override in enumerate(policy.overrides):
        at = f"/overrides/{place}"
        subject = _subject(override)
        if not override.subject or not set(override.subject) <= set(policy.per):
            faults.add(f"{at}/subject", f"must name some of what the policy counts by: {', '.join(policy.per)}")
        for name, value in override.subject.items():
            faults.text(f"{at}/subject/{name[:64]}", value, longest=256)
        if subject in seen:
            faults.add(f"{at}/subject", "is there twice")
        seen.add(subject)
        faults.limit(f"{at}/limit", override.limit)
        limit = msgspec.structs.replace(override.limit, id=ids.get(subject) or tx.new_id("lim"))
        kept.append(msgspec.structs.replace(override, limit=limit))
    return tuple(kept)


def _subject(override: Override) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(override.subject.items()))
