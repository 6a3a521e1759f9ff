"""Replays that tenants asked for, and what came of them."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from apishield.core.replay_report import ReplayJob
from apishield.stores.sql.repositories.base import TenantRepository
from apishield.stores.sql.tables import replays


class ReplaysRepository(TenantRepository[ReplayJob]):
    """A tenant's replays."""

    table = replays
    record = ReplayJob

    async def running(self, tenant_id: str, *, since_us: int, at_most: int) -> int:
        """How many run that gave a sign of life since ``since_us``; counting ends at ``at_most``."""
        alive = (replays.c.status == "running", replays.c.updated_at_us >= since_us)
        return await self._count(tenant_id, at_most, *alive)

    async def advance(self, tenant_id: str, job_id: str, *, position_us: int, now_us: int) -> bool:
        """Notes how far a replay came. Returns whether it is still to go on: nobody cancelled or removed it."""
        own = self._where(tenant_id, replays.c.id == job_id, replays.c.status == "running")
        values = {"position_us": position_us, "updated_at_us": now_us}
        return (await self._connection.execute(update(replays).where(*own).values(values))).rowcount > 0

    async def finish(self, tenant_id: str, job: ReplayJob) -> bool:
        """Writes how a running replay ended. Returns whether it was running."""
        own = self._where(tenant_id, replays.c.id == job.id, replays.c.status == "running")
        return (
            await self._connection.execute(update(replays).where(*own).values(self._row(tenant_id, job)))
        ).rowcount > 0

    async def keep_newest(self, tenant_id: str, count: int) -> None:
        """Forgets all but the tenant's ``count`` newest."""
        beyond = select(replays.c.id).where(*self._where(tenant_id)).order_by(replays.c.id.desc()).offset(count)
        await self._connection.execute(
            delete(replays).where(*self._where(tenant_id, replays.c.id.in_(beyond.scalar_subquery())))
        )

    async def forget_before(self, *, created_at_us: int) -> None:
        """Forgets what is old, of all tenants: addresses of people are among it."""
        await self._connection.execute(delete(replays).where(replays.c.created_at_us < created_at_us))
