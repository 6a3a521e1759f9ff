"""Gives back what the counters of this process took over from one that was killed, and that nobody was told of.

Each second a process notes how its quotas stand, and the next one begins with that where the ledger says less. So what was
settled or released within the last second of a process that is killed comes back as use, and so does a charge in flight.

The ledger is the truth only where it is known to lack nothing. So nothing is given back unless all of this holds:

- The counters are in the memory of this process, the database is a file, and there never was Kafka: no other node or topic
  holds anything back.
- No process that is gone has left a spool, and no part of one was put aside as damaged or unreadable.
- The ledger has taken all that this process answered, and a counter did not change from before that until the ledger was read.
- The ledger can tell the quota's period from the one before, and counts its unit under its own name.
- The quota is a key's own and charges no refusals; else only the counter knows.

A busy key waits for a quiet moment. Owns: when that is, and how much too much a counter has. Does not own: which differences
last (``reconcile``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import select

from apishield.core.model import Counter, Mode
from apishield.core.ports import Clock
from apishield.services.freshness import Freshness
from apishield.services.quota_use import KeyQuota, ledger_since_us, ledger_use, tells_all_of
from apishield.stores.memory import MemoryStore
from apishield.stores.spool.files import spools_in
from apishield.stores.spool.quarantine import QUARANTINE
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.tables import ledger_positions


class OrphanedCharges:
    """Of the counters in ``store``.

    ``spool`` is this process's own below ``spools``; ``is_kept`` says of which quotas the ledger knows all.
    """

    def __init__(
        self,
        database: Database,
        store: MemoryStore,
        freshness: Freshness,
        clock: Clock,
        *,
        spools: Path,
        spool: int,
        is_kept: Callable[[Counter], bool],
    ) -> None:
        self._database = database
        self._store = store
        self._freshness = freshness
        self._clock = clock
        self._spools = spools
        self._spool = spool
        self._is_kept = is_kept

    async def give_back(self, orphaned: Sequence[tuple[KeyQuota, int]]) -> dict[str, int]:
        """Gives back up to so many units of each quota, as far as that is safe now; how many, by the counter's key.

        Raises what the database raises; nothing was given back then.
        """
        before = {
            quota.counter.key: self._store.quota_standing(quota.counter)
            for quota, _ in orphaned
            if quota.counter.limit.mode is not Mode.SHADOW and self._is_kept(quota.counter)
        }
        # Whoever was charged by now is in the spool before this has asked the database, and so in the ledger after it.
        if not before or not await self._ledger_lacks_nothing():
            return {}
        now_us = self._clock()
        async with self._database.read() as tx:
            since_us = await ledger_since_us(tx)
            used = await ledger_use(tx, [quota for quota, _ in orphaned], now_us)
        given: dict[str, int] = {}
        for quota, units in orphaned:
            key = quota.counter.key
            standing, known = before.get(key), used.get((key, quota.start_us))
            if standing is None or known is None or not tells_all_of(quota, since_us, now_us):
                continue
            if standing.start_us == quota.start_us and standing == self._store.quota_standing(quota.counter):
                units = min(units, standing.used - known)  # noqa: PLW2901  the same, as far as it is sure
                if units > 0:
                    self._store.refund(quota.counter, units, quota.start_us)
                    given[key] = units
        return given

    async def _ledger_lacks_nothing(self) -> bool:
        """Whether the ledger holds all that was ever answered on this node, up to this call."""
        if spools_in(self._spools) != [self._spool] or any((self._spools / QUARANTINE).glob("*")):
            return False
        async with self._database.read() as tx:
            of_kafka = select(ledger_positions.c.stream).where(ledger_positions.c.stream.startswith("kafka:")).limit(1)
            if await tx.connection.scalar(of_kafka) is not None:
                return False
        return await self._freshness.wait()
