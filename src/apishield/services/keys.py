"""API keys: the whole life, from made to revoked. Secrets leave ``create`` and ``rotate`` once and are kept hashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from apishield.core.key_manager.format import SecretKind, hint
from apishield.core.key_manager.hashing import digest
from apishield.core.key_manager.lifecycle import MAX_GRACE_SECONDS, Status, grace_end_us, status
from apishield.core.records import Actor, Environment, Key, KeyKind
from apishield.errors import Fault, ProblemError
from apishield.services import key_import
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
from apishield.services.checks import Faults
from apishield.services.key_drafts import ImportItem, ImportResult, KeyChanges, KeyDraft, checked, faults_in, new_key
from apishield.services.lifetimes import outlives, within_own
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.audit import Event
from apishield.stores.sql.unit_of_work import UnitOfWork

_PREFIXES = {Environment.LIVE: SecretKind.LIVE_KEY, Environment.TEST: SecretKind.TEST_KEY}


class KeyService(Service):
    """A tenant's keys."""

    async def create(self, actor: Actor, draft: KeyDraft) -> tuple[Key, str]:
        """Makes a key; returns it with its secret, which is shown this once. A service key never outlives its maker."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            faults = faults_in(draft)
            if draft.kind is KeyKind.SERVICE:
                expires_at_us = within_own(actor, draft.expires_at_us, "service key")
                draft = msgspec.structs.replace(draft, expires_at_us=expires_at_us)
            key = new_key(tx, tenant.id, draft, hint="", faults=faults)
            await _check_customer(tx, key, faults)
            faults.raise_any()
            if await tx.keys.count(tenant.id, at_most=self._ceilings.keys) >= self._ceilings.keys:
                raise refuse_over(self._ceilings.keys, "keys", ending="Revoke one")
            secret, stored = self._new_secret(_PREFIXES[key.environment], key.id)
            key = msgspec.structs.replace(key, hint=hint(secret))
            await tx.keys.insert(tenant.id, key)
            await tx.secret_hashes.insert_many(tenant.id, "key", [stored], now_us=tx.now_us)
            tx.changed("key", tenant.id, key.id)
            await tx.audit.record(actor, action="key.created", target=key.id, after=Audited(self._secrets).key(key))
        return key, secret

    async def get(self, actor: Actor, key_id: str) -> Key:
        """The key, whatever its state."""
        async with self._database.read() as tx:
            return await _existing(tx, tenant_of(actor), key_id)

    async def list(
        self,
        actor: Actor,
        page: PageRequest,
        *,
        status: Status | None = None,
        customer_id: str | None = None,
        query: str | None = None,
    ) -> Page[Key]:
        """The tenant's keys, newest first. ``query`` is looked for in names and hints, and may be an id."""
        faults = Faults()
        faults.sought(customer_id=customer_id, q=query)
        faults.raise_any()
        async with self._database.read() as tx:
            return await tx.keys.page(
                tenant_of(actor), page, now_us=tx.now_us, status=status, customer_id=customer_id, query=query
            )

    async def update(self, actor: Actor, key_id: str, changes: KeyChanges) -> Key:
        """Changes a key. A revoked one can't be changed any more."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            before = await _existing(tx, tenant.id, key_id)
            if before.revoked_at_us is not None:
                raise ProblemError("conflict", f"The key {key_id} is revoked and can't be changed. Make a new one.")
            faults = faults_in(changes)
            fields = {name: value for name, value in given(changes).items() if name in Key.__struct_fields__}
            after = msgspec.structs.replace(before, updated_at_us=tx.now_us, **fields)
            after = checked(after, faults, previous=before, now_us=tx.now_us, new_id=tx.new_id)
            if after.customer_id != before.customer_id:
                await _check_customer(tx, after, faults)
            if after.expires_at_us != before.expires_at_us and _gives_longer_life(actor, after):
                faults.add("/expires_at", "a service key can't outlive the token that changes it")
            faults.raise_any()
            after = await _within_expiry(tx, after)
            if is_unchanged(before, after):
                return before
            await self._write(tx, actor, "key.updated", before, after)
        return after

    async def revoke(self, actor: Actor, key_id: str) -> Key:
        """Ends a key for ever; its record stays. Revoking it again changes nothing."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            before = await _existing(tx, tenant.id, key_id)
            if before.revoked_at_us is not None:
                return before
            after = msgspec.structs.replace(before, revoked_at_us=tx.now_us, updated_at_us=tx.now_us)
            await self._write(tx, actor, "key.revoked", before, after)
        return after

    async def rotate(self, actor: Actor, key_id: str, *, grace_seconds: int = 0) -> tuple[Key, str]:
        """Gives the key a new secret, shown this once.

        The one before works for ``grace_seconds`` more, never past the key's expiry; secrets from before that one end
        with it at the latest.
        """
        if not 0 <= grace_seconds <= MAX_GRACE_SECONDS:
            message = f"must be 0 to {MAX_GRACE_SECONDS} (7 days), is {grace_seconds}"
            raise ProblemError(
                "validation_failed", f"grace_seconds {message}.", faults=[Fault("/grace_seconds", message)]
            )
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            before = await _existing(tx, tenant.id, key_id)
            state = status(before, tx.now_us)
            if state in {"revoked", "expired"}:
                raise ProblemError("conflict", f"The key {key_id} is {state} and can't be rotated. Make a new one.")
            if _gives_longer_life(actor, before):
                raise ProblemError(
                    "forbidden",
                    f"The service key {key_id} outlives this token, which would get its new secret. Use a token that lasts "
                    "longer, or give the key an earlier expires_at.",
                )
            end_us = grace_end_us(tx.now_us, grace_seconds, before.expires_at_us)
            await tx.secret_hashes.end_by(tenant.id, "key", key_id, end_us=end_us, now_us=tx.now_us)
            secret, stored = self._new_secret(_PREFIXES[before.environment], key_id)
            await tx.secret_hashes.insert_many(tenant.id, "key", [stored], now_us=tx.now_us)
            after = msgspec.structs.replace(
                before, hint=hint(secret), previous_expires_at_us=end_us, updated_at_us=tx.now_us
            )
            await self._write(tx, actor, "key.rotated", before, after)
        return after, secret

    async def import_many(self, actor: Actor, items: Sequence[ImportItem]) -> Sequence[ImportResult]:
        """Takes over existing keys; the results are in the order of the items, and a bad item spoils only itself."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            room = self._ceilings.keys - await tx.keys.count(tenant.id, at_most=self._ceilings.keys)
            results = await key_import.import_keys(tx, self._secrets, tenant.id, items, room=room)
            audited = Audited(self._secrets)
            imported = [result.key for result in results if result.key is not None]
            for key in imported:
                tx.changed("key", tenant.id, key.id)
            await tx.audit.record_many(
                actor, [Event("key.imported", key.id, after=audited.key(key)) for key in imported]
            )
        return results

    async def renew(self, tenant_id: str, stored_digest: bytes, secret: str) -> None:
        """Stores a secret that was just verified under the newest pepper, in place of an older one."""
        version = self._secrets.current_version
        async with self._database.transaction() as tx:
            renewed = digest(self._secrets.pepper(version), secret)
            owner = await tx.secret_hashes.renew(tenant_id, stored_digest, by=renewed, pepper_version=version)
            if owner is not None:
                tx.changed("key" if owner.owner_id.startswith("key_") else "token", tenant_id, owner.owner_id)

    async def touch(self, last_used: Mapping[str, int]) -> None:
        """Notes when keys, by id, were last used: written behind, neither audited nor announced."""
        async with self._database.transaction() as tx:
            await tx.keys.touch(last_used)

    async def _write(self, tx: UnitOfWork, actor: Actor, action: str, before: Key, after: Key) -> None:
        await tx.keys.replace(after.tenant_id, after)
        tx.changed("key", after.tenant_id, after.id)
        audited = Audited(self._secrets)
        was, now_is = differing(audited.key(before), audited.key(after))
        await tx.audit.record(actor, action=action, target=after.id, before=was, after=now_is)


async def _existing(tx: UnitOfWork, tenant_id: str, key_id: str) -> Key:
    key = await tx.keys.get(tenant_id, key_id)
    if key is None:
        raise not_found("key", key_id)
    return key


def _gives_longer_life(actor: Actor, key: Key) -> bool:
    """Whether whoever has the key's secret could use the service for longer than the actor can."""
    return key.kind is KeyKind.SERVICE and outlives(actor, key.expires_at_us)


async def _check_customer(tx: UnitOfWork, key: Key, faults: Faults) -> None:
    if key.customer_id is not None and await tx.customers.get(key.tenant_id, key.customer_id) is None:
        faults.add("/customer_id", f"there is no customer {key.customer_id[:64]!a}")


async def _within_expiry(tx: UnitOfWork, key: Key) -> Key:
    """A rotated secret's grace is never shown, nor kept, past the key's expiry."""
    end_us = key.expires_at_us
    if end_us is None or key.previous_expires_at_us is None or key.previous_expires_at_us <= end_us:
        return key
    await tx.secret_hashes.clamp(key.tenant_id, "key", key.id, end_us=end_us)
    return msgspec.structs.replace(key, previous_expires_at_us=end_us)
