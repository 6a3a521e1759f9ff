"""The audit log: who changed what, when, from where; and whether the log itself was tampered with."""

from __future__ import annotations

import msgspec

from apishield.core.audit_chain import ChainWalk
from apishield.core.records import Actor, AuditEntry, Role
from apishield.services.base import Service, tenant_of
from apishield.services.checks import Faults
from apishield.services.secrets import AUDIT_LABEL
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.audit import SERVICE_CHAIN
from apishield.stores.sql.unit_of_work import UnitOfWork


class AuditBreak(msgspec.Struct, frozen=True):
    """Where a chain first fails to hold, and why. What follows in that chain proves nothing."""

    tenant_id: str
    sequence: int
    reason: str


class AuditReport(msgspec.Struct, frozen=True):
    """What a walk over the chains found."""

    chains: int
    entries: int
    breaks: tuple[AuditBreak, ...]

    @property
    def holds(self) -> bool:
        """Whether every chain is whole."""
        return not self.breaks


class AuditService(Service):
    """Reads and verifies; entries are written by the other services, in the transaction of what they tell of."""

    async def list(
        self,
        actor: Actor,
        page: PageRequest,
        *,
        actor_id: str | None = None,
        action: str | None = None,
        target: str | None = None,
        from_us: int | None = None,
        to_us: int | None = None,
    ) -> Page[AuditEntry]:
        """The tenant's entries, newest first; an operator who names no tenant sees what was done for all.

        ``action`` may end in ``*``, as in ``key.*``; ``to_us`` is the first instant that is left out.
        """
        faults = Faults()
        faults.sought(actor=actor_id, action=action, target=target)
        faults.raise_any()
        chain = actor.tenant_id or SERVICE_CHAIN if actor.role is Role.OPERATOR else tenant_of(actor)
        async with self._database.read() as tx:
            return await tx.audit.page(
                chain, page, actor_id=actor_id, action=action, target=target, from_us=from_us, to_us=to_us
            )

    async def verify(self, tenant_id: str | None = None) -> AuditReport:
        """Walks the chain of a tenant, or all of them (those of deleted tenants included)."""
        async with self._database.read() as tx:
            chains = (
                [tenant_id] if tenant_id is not None else sorted({*await tx.audit.chains(), *await tx.tenants.ids()})
            )
            entries, breaks = 0, []
            for chain in chains:
                walked, fault = await self._walk(tx, chain)
                entries += walked
                if fault is not None:
                    breaks.append(fault)
        return AuditReport(len(chains), entries, tuple(breaks))

    async def _walk(self, tx: UnitOfWork, chain: str) -> tuple[int, AuditBreak | None]:
        walk = ChainWalk(chain, lambda version: self._secrets.derive(AUDIT_LABEL, version))
        async for sequence, entry in tx.audit.walk(chain):
            fault = "the entry was changed" if entry is None else walk.fault(entry)
            if fault is not None:
                return walk.sequence, AuditBreak(chain, sequence, fault)
        fault = walk.end_fault(await tx.audit.head(chain))
        return walk.sequence, None if fault is None else AuditBreak(chain, walk.sequence + 1, fault)
