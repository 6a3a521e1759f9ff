"""The looks of ``apishield reconcile``, over the database and Redis of the settings."""

from __future__ import annotations

import asyncio

import msgspec

from apishield.bootstrap import SPOOL_DIRECTORY
from apishield.clock import system_clock
from apishield.core.model import SECOND_US
from apishield.core.ports import Clock
from apishield.services.backlog import Backlog, backlog
from apishield.services.reconcile import LOOKS, QuotaDrift, Reconciler
from apishield.services.rollup_checks import RollupDrift, rollup_drift
from apishield.services.snapshot import Snapshot
from apishield.services.usage import UsageService
from apishield.settings import Settings
from apishield.stores.redis.store import RedisStore
from apishield.stores.sql.database import Database

_ALIVE_FOR_US = 10 * SECOND_US


class Reconciliation(msgspec.Struct, frozen=True):
    """What was found. ``checked`` quotas are in use, ``not_asked`` counters gave no answer; ``nodes`` are alive.

    What ``waits`` for the ledger looks orphaned for as long: it was charged, and there is no entry for it yet.
    """

    counters_compared: bool
    checked: int
    not_asked: int
    nodes: int
    quotas: list[QuotaDrift]
    rollups: list[RollupDrift]
    waits: Backlog


async def reconciled(
    database: Database, settings: Settings, *, heal: bool, pause_seconds: float, clock: Clock = system_clock
) -> Reconciliation:
    """Looks at quotas as often as it takes to tell drift from what is on its way, and at the rollups once.

    Heals nothing while nodes live: they do, and a difference must not be charged twice.
    """
    async with database.read() as tx:
        nodes = await tx.meta.live_nodes(since_us=clock() - _ALIVE_FOR_US)
    quotas: list[QuotaDrift] = []
    checked = not_asked = 0
    if settings.redis_url is not None:
        snapshot = Snapshot(database.feed, clock, {})
        await snapshot.load()
        usage = UsageService(snapshot, database, clock)
        store = RedisStore(settings.redis_url, usage, timeout_ms=settings.redis_timeout_ms)
        reconciler = Reconciler(database, snapshot, store, clock)
        try:
            for look in range(LOOKS):
                if look:
                    await asyncio.sleep(pause_seconds)
                quotas = await reconciler.step(heal=heal and not nodes)
            checked, not_asked = reconciler.stats.checked, reconciler.stats.not_asked
        finally:
            await store.close()
            await usage.flush()
    rollups = await rollup_drift(database, clock)
    waits = await backlog(database, settings, settings.data_dir / SPOOL_DIRECTORY)
    return Reconciliation(settings.redis_url is not None, checked, not_asked, nodes, quotas, rollups, waits)
