"""What the data plane knows: tenants, keys, tokens, limits and blocks, in memory, at most a second old.

Owns: look-ups by secret, address and id; applying the change feed; knowing its own age.
Does not own: deciding (``engine``), and where rows come from (``SnapshotSource``).

Everything is keyed by tenant first. A caller's key is looked up within the tenant that asks, so that another tenant's key
and an invented one can't be told apart, in answer or in time.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from apishield.core.abuse_detector.blocklist import Blocklist
from apishield.core.decided import Whose
from apishield.core.endpoints import Catalogue, CatalogueEntry
from apishield.core.key_manager.format import SecretKind, inspect
from apishield.core.key_manager.hashing import digester, remembering
from apishield.core.policies import CompiledPolicy, PolicyPlan
from apishield.core.ports import Change, Clock, SnapshotRows, SnapshotSource
from apishield.core.records import Block, Customer, Key, KeyKind, Policy, Role, SecretHash, Tenant, Token
from apishield.services.aside import aside
from apishield.services.key_entries import CustomerEntry, KeyEntry

OPERATOR_ID: Final = "operator"
_CATCH_UP_INTERVAL_SECONDS = 0.1
_CATCH_UP_TIMEOUT_SECONDS = 0.4
_MOST_OUTDATED = 1000


class Credential(msgspec.Struct, frozen=True):
    """Who a secret belongs to. ``id`` is the token's or key's; the operator has no tenant."""

    id: str
    role: Role
    tenant_id: str | None
    expires_at_us: int | None = None


class TenantView:
    """One tenant's part of the snapshot."""

    __slots__ = (
        "allows", "blocks", "catalogue", "customers", "endpoints", "keys", "policies", "policy_plan", "secrets", "tenant",
        "whose",
    )  # fmt: skip

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.whose = Whose.of(tenant.id)  # of decisions about no key
        self.keys: dict[str, KeyEntry] = {}
        self.secrets: dict[bytes, SecretHash] = {}
        self.customers: dict[str, CustomerEntry] = {}
        self.policies: dict[str, CompiledPolicy] = {}
        self.policy_plan = PolicyPlan(tenant.plan, ())
        self.endpoints: dict[str, CatalogueEntry] = {}
        self.catalogue = Catalogue()
        self.blocks = Blocklist()
        self.allows = Blocklist()


class Snapshot:
    """The data plane's memory. ``peppers`` are by version, the one that writes first."""

    def __init__(
        self, source: SnapshotSource, clock: Clock, peppers: dict[int, bytes], operator_digests: Collection[bytes] = ()
    ) -> None:
        self.sequence = 0
        self.generation = (
            0  # changes whenever anything here changes, so that what was derived from it can be kept till then
        )
        self.fresh_at_us = 0
        self.operator_blocks = Blocklist()
        self.outdated: dict[bytes, tuple[str, str]] = {}
        """Secrets that were verified under an older pepper: digest → tenant and secret, for whoever renews them."""
        self._source = source
        self._clock = clock
        self._digesters = tuple(digester(pepper) for pepper in peppers.values())
        self._key_digesters = tuple(remembering(digest) for digest in self._digesters)
        self._operator_digests = frozenset(operator_digests)
        self._tenants: dict[str, TenantView] = {}
        self._credentials: dict[bytes, tuple[Credential, SecretHash]] = {}
        self._digests: dict[str, set[bytes]] = {}
        self._lock = asyncio.Lock()
        self._shared_catch_up: asyncio.Task[None] | None = None
        self._caught_up_at = 0.0

    def know_operator(self, digests: Collection[bytes]) -> None:
        """Takes the digests under which the operator's token is known now."""
        self._operator_digests = frozenset(digests)

    # --- look-ups -----------------------------------------------------------------------------------------------------

    def tenant(self, tenant_id: str) -> TenantView | None:
        """The tenant, if it exists (suspended ones included)."""
        return self._tenants.get(tenant_id)

    def tenants(self) -> list[TenantView]:
        """All tenants."""
        return [*self._tenants.values()]

    def __len__(self) -> int:
        return sum(len(view.keys) for view in self._tenants.values())

    def age_us(self) -> int:
        """How long ago the snapshot was last known to be up to date."""
        return self._clock() - self.fresh_at_us

    def authenticate(self, secret: str) -> Credential | None:
        """Whose token or service key ``secret`` is; ``None`` where it is unknown, revoked, disabled or expired."""
        inspection = inspect(secret)
        is_operator = inspection.kind is SecretKind.OPERATOR_TOKEN  # may be an operator's own words, without a checksum
        if inspection.kind is None or not (inspection.intact or is_operator):
            return None
        now_us = self._clock()
        for age, digest in enumerate(self._digesters):
            hashed = digest(secret)
            if is_operator:
                if hashed in self._operator_digests:  # keyed digests: how they compare tells nothing of the secret
                    return Credential(OPERATOR_ID, Role.OPERATOR, None)
                continue
            found = self._credentials.get(hashed)
            if found is not None:
                credential, stored = found
                if age and credential.tenant_id is not None:
                    self._note_outdated(credential.tenant_id, stored, secret)
                return credential if self._holds(credential, stored, now_us) else None
        return None

    def key_of(self, view: TenantView, secret: str) -> tuple[KeyEntry, SecretHash] | None:
        """The tenant's key with this secret, in whatever state it is; ``None`` where the tenant has no such key."""
        for age, digest in enumerate(self._key_digesters):
            stored = view.secrets.get(digest(view.tenant.id, secret))
            if stored is not None:
                if age:
                    self._note_outdated(view.tenant.id, stored, secret)
                entry = view.keys.get(stored.owner_id)
                return None if entry is None else (entry, stored)
        return None

    def _note_outdated(self, tenant_id: str, stored: SecretHash, secret: str) -> None:
        if len(self.outdated) < _MOST_OUTDATED:  # the others come again
            self.outdated[stored.digest] = (tenant_id, secret)

    def _holds(self, credential: Credential, stored: SecretHash, now_us: int) -> bool:
        if credential.expires_at_us is not None and now_us >= credential.expires_at_us:
            return False
        if credential.role is not Role.SERVICE or credential.tenant_id is None:
            return True
        view = self._tenants.get(credential.tenant_id)
        entry = None if view is None else view.keys.get(credential.id)
        return entry is not None and entry.key.enabled and entry.key.revoked_at_us is None

    # --- keeping up ---------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Reads everything. Raises what the source raises; the snapshot then stays as it was."""
        started_us = self._clock()
        rows = await self._source.load()
        compiled = await _compiled(rows.policies)
        self.generation += 1
        self._tenants.clear()
        self._credentials.clear()
        self._digests.clear()
        self.operator_blocks = Blocklist()
        self._take_in(rows, compiled)
        self.sequence = rows.sequence
        self.fresh_at_us = started_us
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be walked by every collection

    async def catch_up(self) -> None:
        """Applies what changed since; after it, what was committed before the call is known here."""
        async with self._lock:
            started_us = self._clock()
            changes = await self._source.changes_after(self.sequence)
            if changes is None:
                await self.load()
                return
            if changes:
                rows = await self._source.load_objects(changes)
                self._apply(changes, rows, await _compiled(rows.policies))
                self.sequence = changes[-1].sequence
            self.fresh_at_us = started_us

    async def shared_catch_up(self) -> None:
        """Like ``catch_up``, at most ten times a second however many ask: all who wait share the next one.

        Raises ``TimeoutError`` where the database does not answer, besides what the source raises.
        """
        if self._shared_catch_up is None or self._shared_catch_up.done():
            self._shared_catch_up = asyncio.create_task(self._catch_up_in_turn())
        async with asyncio.timeout(_CATCH_UP_TIMEOUT_SECONDS):  # a database that hangs must not hang whoever asks
            await asyncio.shield(self._shared_catch_up)

    async def _catch_up_in_turn(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._caught_up_at + _CATCH_UP_INTERVAL_SECONDS - loop.time()))
        self._caught_up_at = loop.time()
        self._shared_catch_up = None  # who asks from here on may have seen a later commit, and waits for the next one
        await self.catch_up()

    # --- applying rows ------------------------------------------------------------------------------------------------

    def _apply(self, changes: Iterable[Change], rows: SnapshotRows, policies: Iterable[CompiledPolicy]) -> None:
        self.generation += 1
        present = {
            record.id for records in (rows.tenants, rows.customers, rows.policies, rows.endpoints) for record in records
        }
        for change in changes:
            if change.object_id not in present:
                self._forget(change)
        self._take_in(rows, policies)

    def _forget(self, change: Change) -> None:
        """Takes out what was deleted, and secrets and blocks that changed: their present state is taken in afterwards."""
        view = self._tenants.get(change.tenant_id) if change.tenant_id is not None else None
        match change.kind:
            case "tenant":
                gone = self._tenants.pop(change.object_id, None)
                for owner_id in [] if gone is None else [*gone.keys]:
                    self._forget_secrets(owner_id)
                for hashed in [each for each, (of, _) in self._credentials.items() if of.tenant_id == change.object_id]:
                    del self._credentials[hashed]
            case "token":
                self._forget_secrets(change.object_id)
            case "key" if view is not None:
                view.keys.pop(change.object_id, None)
                self._forget_secrets(change.object_id, view)
            case "customer" if view is not None:
                view.customers.pop(change.object_id, None)
            case "policy" if view is not None:
                if view.policies.pop(change.object_id, None) is not None:
                    view.policy_plan = PolicyPlan(view.tenant.plan, view.policies.values())
            case "endpoint" if view is not None:
                gone_endpoint = view.endpoints.pop(change.object_id, None)
                if gone_endpoint is not None:
                    view.catalogue.remove(gone_endpoint)
            case "block":
                for blocklist in (self.operator_blocks,) if view is None else (view.blocks, view.allows):
                    blocklist.discard(change.object_id)
            case _:  # of a tenant that is gone itself
                pass

    def _forget_secrets(self, owner_id: str, view: TenantView | None = None) -> None:
        """Takes the owner's secrets out. Another tenant may hold the same hash as its own key's; that one stays."""
        for hashed in self._digests.pop(owner_id, ()):
            known = self._credentials.get(hashed)
            if known is not None and known[0].id == owner_id:
                del self._credentials[hashed]
            if view is not None and (stored := view.secrets.get(hashed)) is not None and stored.owner_id == owner_id:
                del view.secrets[hashed]

    def _take_in(self, rows: SnapshotRows, policies: Iterable[CompiledPolicy]) -> None:
        for tenant in rows.tenants:
            view = self._tenants.get(tenant.id)
            if view is None:
                self._tenants[tenant.id] = TenantView(tenant)
            else:
                view.tenant = tenant
                view.policy_plan = PolicyPlan(tenant.plan, view.policies.values())
        for customer in rows.customers:
            self._take_customer(customer)
        for key in rows.keys:
            self._take_key(key)
        credentials = {token.id: _of_token(token) for token in rows.tokens if token.revoked_at_us is None}
        credentials |= {key.id: _of_key(key) for key in rows.keys if key.kind is KeyKind.SERVICE}
        for stored in (*rows.token_secrets, *rows.key_secrets):
            self._take_secret(stored, credentials.get(stored.owner_id))
        tenant_of_key = {key.id: key.tenant_id for key in rows.keys}
        for stored in rows.key_secrets:
            owner = self._tenants.get(tenant_of_key.get(stored.owner_id, ""))
            if owner is not None:
                owner.secrets[stored.digest] = stored
                self._digests.setdefault(stored.owner_id, set()).add(stored.digest)
        self._take_policies(policies)
        for endpoint in rows.endpoints:
            owner = self._tenants.get(endpoint.tenant_id)
            if owner is not None:
                before = owner.endpoints.get(endpoint.id)
                if before is not None:
                    owner.catalogue.remove(before)
                entry = owner.endpoints[endpoint.id] = CatalogueEntry(endpoint)
                owner.catalogue.add(entry)
        for block in rows.blocks:
            self._take_block(block)

    def _take_secret(self, stored: SecretHash, credential: Credential | None) -> None:
        if credential is not None:
            ends = [each for each in (credential.expires_at_us, stored.expires_at_us) if each is not None]
            credential = msgspec.structs.replace(credential, expires_at_us=min(ends, default=None))
            self._credentials[stored.digest] = (credential, stored)
            self._digests.setdefault(stored.owner_id, set()).add(stored.digest)

    def _take_key(self, key: Key) -> None:
        view = self._tenants.get(key.tenant_id)
        if view is not None:
            view.keys[key.id] = KeyEntry(key, view.customers)

    def _take_customer(self, customer: Customer) -> None:
        view = self._tenants.get(customer.tenant_id)
        if view is not None:
            view.customers[customer.id] = CustomerEntry(customer)

    def _take_policies(self, policies: Iterable[CompiledPolicy]) -> None:
        touched: set[str] = set()
        for compiled in policies:
            policy = compiled.policy
            view = self._tenants.get(policy.tenant_id)
            if view is not None:
                view.policies[policy.id] = compiled
                touched.add(policy.tenant_id)
        for tenant_id in touched:
            view = self._tenants[tenant_id]
            view.policy_plan = PolicyPlan(view.tenant.plan, view.policies.values())

    def _take_block(self, block: Block) -> None:
        view = self._tenants.get(block.tenant_id) if block.tenant_id is not None else None
        if block.tenant_id is None:
            if block.action == "block":  # an allow is a tenant's own
                self.operator_blocks.add(block)
        elif view is not None:
            (view.blocks if block.action == "block" else view.allows).add(block)


async def _compiled(policies: Collection[Policy]) -> list[CompiledPolicy]:
    """The policies ready for checks. One with thousands of overrides holds no check up meanwhile."""
    return await aside(
        sum(len(policy.overrides) for policy in policies), lambda: [CompiledPolicy(policy) for policy in policies]
    )


def _of_token(token: Token) -> Credential:
    return Credential(token.id, token.role, token.tenant_id, token.expires_at_us)


def _of_key(key: Key) -> Credential:
    return Credential(key.id, Role.SERVICE, key.tenant_id, key.expires_at_us)
