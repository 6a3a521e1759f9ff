"""Tenants: sign up, look, change, delete."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from apishield.core.key_manager.format import SecretKind, hint
from apishield.core.model import SECOND_US, Limit, SlidingWindow
from apishield.core.records import Actor, Key, KeyKind, Match, Metadata, Policy, Role, Tenant, Token
from apishield.errors import Fault, ProblemError
from apishield.services.audited import Audited
from apishield.services.base import Service, differing, given, is_unchanged, not_found, require_operator
from apishield.services.checks import Faults
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.audit import Event
from apishield.stores.sql.unit_of_work import UnitOfWork

SELF_SERVE_PLANS = frozenset({"starter"})
"""The plans that an open sign-up may choose."""

ANONYMOUS_POLICY = "anonymous"

_ANONYMOUS_WINDOW = SlidingWindow(requests=60, window_us=60 * SECOND_US)
_PLAN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


class TenantCreated(msgspec.Struct, frozen=True):
    """A new tenant with its first token and its first service key; the only time that both secrets are shown."""

    tenant: Tenant
    token: Token
    token_secret: str
    key: Key
    key_secret: str


class TenantChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What to change; what is absent stays. ``plan`` and ``status`` are the operator's."""

    name: str | UnsetType = UNSET
    require_key: bool | UnsetType = UNSET
    time_zone: str | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    plan: str | UnsetType = UNSET
    status: Literal["active", "suspended"] | UnsetType = UNSET


class TenantService(Service):
    """A tenant sees itself; the operator sees all."""

    async def create(
        self, actor: Actor, *, name: str, plan: str = "starter", metadata: Metadata | None = None
    ) -> TenantCreated:
        """Makes a tenant with an owner's token, a service key and the policy for callers without a key."""
        if actor.role is not Role.OPERATOR and plan not in SELF_SERVE_PLANS:
            offered = ", ".join(sorted(SELF_SERVE_PLANS))
            raise ProblemError(
                "validation_failed",
                f"plan: {plan[:64]!a} can't be chosen at a sign-up; choose one of: {offered}.",
                faults=[Fault("/plan", f"must be one of: {offered}")],
            )
        async with self._database.transaction() as tx:
            now_us = tx.now_us
            tenant = Tenant(
                id=tx.new_id("ten"),
                name=name,
                plan=plan,
                metadata=metadata or {},
                created_at_us=now_us,
                updated_at_us=now_us,
            )
            _check(tenant)
            await tx.tenants.insert(tenant)
            token, token_secret = await self._first_token(tx, tenant)
            key, key_secret = await self._first_key(tx, tenant)
            policy = _anonymous_policy(tx, tenant)
            await tx.policies.insert(tenant.id, policy)
            tx.changed("tenant", None, tenant.id)
            tx.changed("token", tenant.id, token.id)
            tx.changed("key", tenant.id, key.id)
            tx.changed("policy", tenant.id, policy.id)
            audited = Audited(self._secrets)
            events = [
                Event("tenant.created", tenant.id, after=audited.tenant(tenant)),
                Event("token.created", token.id, after=audited.token(token)),
                Event("key.created", key.id, after=audited.key(key)),
                Event("policy.created", policy.id, after=audited.policy(policy)),
            ]
            await tx.audit.record_many(actor, events, tenant_id=tenant.id)
        return TenantCreated(tenant, token, token_secret, key, key_secret)

    async def get(self, actor: Actor, tenant_id: str) -> Tenant:
        """The tenant, if it is the actor's own or the actor is the operator."""
        async with self._database.read() as tx:
            tenant = await tx.tenants.get(tenant_id) if _may_see(actor, tenant_id) else None
        if tenant is None:
            raise not_found("tenant", tenant_id)
        return tenant

    async def list(self, actor: Actor, page: PageRequest) -> Page[Tenant]:
        """All tenants, for the operator."""
        require_operator(actor, "lists tenants")
        async with self._database.read() as tx:
            return await tx.tenants.page(page)

    async def update(self, actor: Actor, tenant_id: str, changes: TenantChanges) -> Tenant:
        """Changes a tenant."""
        if changes.plan is not UNSET or changes.status is not UNSET:
            require_operator(actor, "changes plan and status")
        async with self._database.transaction() as tx:
            before = await tx.tenants.lock(tenant_id) if _may_see(actor, tenant_id) else None
            if before is None:
                raise not_found("tenant", tenant_id)
            after = msgspec.structs.replace(before, updated_at_us=tx.now_us, **given(changes))
            _check(after)
            if is_unchanged(before, after):
                return before
            await tx.tenants.replace(after)
            tx.changed("tenant", None, tenant_id)
            audited = Audited(self._secrets)
            was, now_is = differing(audited.tenant(before), audited.tenant(after))
            await tx.audit.record(
                actor, action="tenant.updated", target=tenant_id, before=was, after=now_is, tenant_id=tenant_id
            )
        return after

    async def delete(self, actor: Actor, tenant_id: str) -> None:
        """Ends a tenant: its credentials are destroyed at once; its records stay for its audit log and its bills."""
        require_operator(actor, "deletes tenants")
        async with self._database.transaction() as tx:
            before = await tx.tenants.lock(tenant_id)
            if before is None:
                raise not_found("tenant", tenant_id)
            after = msgspec.structs.replace(before, status="deleted", updated_at_us=tx.now_us)
            await tx.tenants.replace(after)
            await tx.secret_hashes.delete_of_tenant(tenant_id)
            tx.changed("tenant", None, tenant_id)
            audited = Audited(self._secrets)
            was, now_is = differing(audited.tenant(before), audited.tenant(after))
            await tx.audit.record(
                actor, action="tenant.deleted", target=tenant_id, before=was, after=now_is, tenant_id=tenant_id
            )

    async def _first_token(self, tx: UnitOfWork, tenant: Tenant) -> tuple[Token, str]:
        token_id = tx.new_id("tok")
        secret, stored = self._new_secret(SecretKind.TENANT_TOKEN, token_id)
        token = Token(
            id=token_id,
            tenant_id=tenant.id,
            name="First token",
            role=Role.OWNER,
            hint=hint(secret),
            created_at_us=tx.now_us,
        )
        await tx.tokens.insert(tenant.id, token)
        await tx.secret_hashes.insert_many(tenant.id, "token", [stored], now_us=tx.now_us)
        return token, secret

    async def _first_key(self, tx: UnitOfWork, tenant: Tenant) -> tuple[Key, str]:
        key_id = tx.new_id("key")
        secret, stored = self._new_secret(SecretKind.LIVE_KEY, key_id)
        key = Key(
            id=key_id,
            tenant_id=tenant.id,
            name="First service key",
            kind=KeyKind.SERVICE,
            hint=hint(secret),
            created_at_us=tx.now_us,
            updated_at_us=tx.now_us,
        )
        await tx.keys.insert(tenant.id, key)
        await tx.secret_hashes.insert_many(tenant.id, "key", [stored], now_us=tx.now_us)
        return key, secret


def _may_see(actor: Actor, tenant_id: str) -> bool:
    return actor.role is Role.OPERATOR or actor.tenant_id == tenant_id


def _check(tenant: Tenant) -> None:
    faults = Faults()
    faults.text("/name", tenant.name)
    if not (_PLAN_CHARACTERS.issuperset(tenant.plan) and 1 <= len(tenant.plan) <= 64):
        faults.add("/plan", "must be a word of a-z, 0-9, _ and -")
    faults.time_zone("/time_zone", tenant.time_zone)
    faults.metadata("/metadata", tenant.metadata)
    faults.raise_any()


def _anonymous_policy(tx: UnitOfWork, tenant: Tenant) -> Policy:
    return Policy(
        id=tx.new_id("pol"),
        tenant_id=tenant.id,
        name=ANONYMOUS_POLICY,
        match=Match(caller="anonymous"),
        per=("ip",),
        limit=Limit(id=tx.new_id("lim"), name=ANONYMOUS_POLICY, algorithm=_ANONYMOUS_WINDOW),
        created_at_us=tx.now_us,
        updated_at_us=tx.now_us,
    )
