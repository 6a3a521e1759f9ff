"""A transaction as the services see it: the repositories, the changes to announce, the work that waits for the commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property

from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.audit_chain import ChainKey
from apishield.core.ids import new_id
from apishield.core.ports import ChangeKind
from apishield.stores.sql.repositories.audit import AuditRepository
from apishield.stores.sql.repositories.blocks import BlocksRepository
from apishield.stores.sql.repositories.customers import CustomersRepository
from apishield.stores.sql.repositories.endpoints import EndpointsRepository
from apishield.stores.sql.repositories.idempotency import IdempotencyRepository
from apishield.stores.sql.repositories.keys import KeysRepository
from apishield.stores.sql.repositories.meta import MetaRepository
from apishield.stores.sql.repositories.policies import PoliciesRepository
from apishield.stores.sql.repositories.replays import ReplaysRepository
from apishield.stores.sql.repositories.secret_hashes import SecretHashesRepository
from apishield.stores.sql.repositories.shadow import ShadowRepository
from apishield.stores.sql.repositories.tenants import TenantsRepository
from apishield.stores.sql.repositories.tokens import TokensRepository
from apishield.stores.sql.repositories.usage import UsageRepository

AfterCommit = Callable[[], Awaitable[None] | None]


class UnitOfWork:
    """One transaction at one moment, ``now_us``. Made by ``Database.transaction`` and ``Database.read``."""

    def __init__(
        self, connection: AsyncConnection, *, now_us: int, entropy: Callable[[int], bytes], audit_key: ChainKey
    ) -> None:
        self.connection = connection
        self.now_us = now_us
        self.changes: dict[tuple[ChangeKind, str | None, str], None] = {}
        self.callbacks: list[AfterCommit] = []
        self._entropy = entropy
        self._audit_key = audit_key

    def new_id(self, prefix: str) -> str:
        """An id of this moment."""
        return new_id(prefix, self.now_us, self._entropy)

    def changed(self, kind: ChangeKind, tenant_id: str | None, object_id: str) -> None:
        """Announces in the change feed, at the commit, that an object is no longer what it was."""
        self.changes[kind, tenant_id, object_id] = None

    def after_commit(self, callback: AfterCommit) -> None:
        """Runs ``callback`` once this transaction is committed, and not at all if it is not."""
        self.callbacks.append(callback)

    @cached_property
    def tenants(self) -> TenantsRepository:
        """Tenants."""
        return TenantsRepository(self.connection)

    @cached_property
    def tokens(self) -> TokensRepository:
        """Tokens of the control plane."""
        return TokensRepository(self.connection)

    @cached_property
    def keys(self) -> KeysRepository:
        """API keys."""
        return KeysRepository(self.connection)

    @cached_property
    def secret_hashes(self) -> SecretHashesRepository:
        """The hashed secrets of keys and tokens."""
        return SecretHashesRepository(self.connection)

    @cached_property
    def customers(self) -> CustomersRepository:
        """Customers of tenants."""
        return CustomersRepository(self.connection)

    @cached_property
    def policies(self) -> PoliciesRepository:
        """Policies."""
        return PoliciesRepository(self.connection)

    @cached_property
    def endpoints(self) -> EndpointsRepository:
        """The catalogue of endpoints."""
        return EndpointsRepository(self.connection)

    @cached_property
    def blocks(self) -> BlocksRepository:
        """Blocks and allows."""
        return BlocksRepository(self.connection)

    @cached_property
    def audit(self) -> AuditRepository:
        """The audit log."""
        return AuditRepository(
            self.connection,
            key=self._audit_key,
            now_us=self.now_us,
            entropy=self._entropy,
            after_commit=self.after_commit,
        )

    @cached_property
    def idempotency(self) -> IdempotencyRepository:
        """First requests under an Idempotency-Key."""
        return IdempotencyRepository(self.connection)

    @cached_property
    def usage(self) -> UsageRepository:
        """Use of quotas, totals of days."""
        return UsageRepository(self.connection)

    @cached_property
    def shadow(self) -> ShadowRepository:
        """What policies in shadow would have refused."""
        return ShadowRepository(self.connection)

    @cached_property
    def replays(self) -> ReplaysRepository:
        """Replays of policies."""
        return ReplaysRepository(self.connection)

    @cached_property
    def meta(self) -> MetaRepository:
        """What the service remembers about itself."""
        return MetaRepository(self.connection)
