"""Places for what takes long: live views, exports. Bounded by tenant and by process, and some are kept for the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from apishield.errors import ProblemError

_UNBOUNDED = 1 << 30


class Places:
    """``of_all`` places in this process, of which a tenant has ``of_tenant``; the last ``reserved`` are for tenants with none.

    ``what`` names them in the plural, as in "live views".
    """

    def __init__(self, what: str, *, of_tenant: int, of_all: int, reserved: int, retry_after_seconds: int) -> None:
        self.of_tenant = of_tenant
        self.of_all = of_all
        self._what = what
        self._reserved = reserved
        self._retry_after_seconds = retry_after_seconds
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._taken.total()

    def taken_by(self, tenant_id: str) -> int:
        """How many the tenant has."""
        return self._taken.get(tenant_id, 0)

    @contextlib.contextmanager
    def admitted(self, tenant_id: str) -> Iterator[None]:
        """A place for the tenant, for as long as the block lasts. Raises 429 ``concurrency_exceeded`` where there is none."""
        self._refuse_more(tenant_id)
        self._taken[tenant_id] += 1
        try:
            yield
        finally:
            self._taken[tenant_id] -= 1
            if not self._taken[tenant_id]:
                del self._taken[tenant_id]

    def _refuse_more(self, tenant_id: str) -> None:
        own = self._taken.get(tenant_id, 0)
        if own >= self.of_tenant:
            message = f"This tenant has {own} {self._what} under way here, the most it may have. Wait, or end one."
        elif self.taken >= (self.of_all - self._reserved if own else self.of_all):
            message = f"There is no room for more {self._what} here now. Try again in a moment."
        else:
            return
        raise ProblemError("concurrency_exceeded", message, headers={"Retry-After": str(self._retry_after_seconds)})


class Queues:
    """A queue for each tenant: ``at_once`` go on, ``waiting`` more wait for them, in the order in which they came."""

    def __init__(self, what: str, *, at_once: int, waiting: int) -> None:
        self._places = Places(
            what, of_tenant=at_once + waiting, of_all=_UNBOUNDED, reserved=0, retry_after_seconds=1
        )  # each tenant's is bounded; all take turns at what is costly
        self._at_once = at_once
        self._gates: dict[str, asyncio.Semaphore] = {}

    def waiting_or_going(self, tenant_id: str) -> int:
        """How many of the tenant's there are."""
        return self._places.taken_by(tenant_id)

    @contextlib.asynccontextmanager
    async def admitted(self, tenant_id: str) -> AsyncIterator[None]:
        """Waits for its turn. Raises 429 ``concurrency_exceeded`` where too many wait already."""
        with self._places.admitted(tenant_id):
            gate = self._gates.setdefault(tenant_id, asyncio.Semaphore(self._at_once))
            try:
                async with gate:
                    yield
            finally:
                if self._places.taken_by(tenant_id) == 1:  # nobody else holds on to the gate
                    self._gates.pop(tenant_id, None)
