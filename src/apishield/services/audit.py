"""The audit log: who changed what, when, from where; and whether the log itself was tampered with."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from apishield.core.audit_chain import ChainWalk
from apishield.core.records import Actor, AuditEntry, Role
from apishield.services.base import Service, tenant_of
from apishield.services.checks import Faults
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.repositories.audit import SERVICE_CHAIN
from apishield.stores.sql.unit_of_work import UnitOfWork


class AuditBreak(msgspec.Struct, frozen=True):
    """Where a chain fails to hold, and why. What follows in that chain proves nothing, up to the mark of the break."""

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

    async def verify(
        self, tenant_id: str | None = None, expected: Mapping[str, Mapping[int, str]] | None = None
    ) -> AuditReport:
        """Walks the chain of a tenant, or all of them (those of deleted tenants included).

        ``expected`` are MACs that were seen before, by chain and number; a chain that lacks one of them does not hold.
        """
        expected = expected or {}
        async with self._database.read() as tx:
            chains = (
                [tenant_id]
                if tenant_id is not None
                else sorted({*await tx.audit.chains(), *await tx.tenants.ids(), *expected})
            )
            entries, breaks = 0, tuple[AuditBreak, ...]()
            for chain in chains:
                walked, found = await self._walk(tx, chain, expected.get(chain, {}))
                entries += walked
                breaks += found
        return AuditReport(len(chains), entries, breaks)

    async def _walk(
        self, tx: UnitOfWork, chain: str, expected: Mapping[int, str]
    ) -> tuple[int, tuple[AuditBreak, ...]]:
        walk = ChainWalk(chain, self._secrets.audit_key().of, expected)
        walked, breaks = 0, tuple[AuditBreak, ...]()
        async for sequence, entry in tx.audit.walk(chain):
            fault = "the entry was changed" if entry is None else walk.fault(entry)
            if fault is not None:
                breaks += (AuditBreak(chain, sequence, fault),)
                if walk.sequence != sequence:  # no mark of a break, after which the chain goes on
                    return walked, breaks
            walked += 1
        fault = walk.end_fault(await tx.audit.head(chain))
        if fault is not None:
            breaks += (AuditBreak(chain, walk.sequence + 1, fault),)
        return walked, breaks
