"""Reconciles live quota counters with the ledger: says how far they are apart, and heals those that know too little.

Owns: which difference is drift, what is charged to mend it. Does not own: what the ledger says (``quota_use``), how rollups
agree among themselves (``rollup_checks``), who calls when (``workers.reconcile``).

A counter and the ledger always differ by what is on its way: charges that are not in the ledger yet, and reservations that were
settled but not there. So a difference counts only as far as it was there at each of the last ``LOOKS`` looks:

- **missing**: the ledger has more than the counter. The counter lost charges (its store lost data); they are charged again.
- **orphaned**: the counter had more at one look than the ledger has at the next. Units were charged whose event was lost with a
  process that was killed before it answered, or given back within the last second of such a process, whose note of the quota
  is older. Nothing of them is billed. Counters in memory give them back where the ledger surely lacks nothing (``orphans``);
  in Redis, where events of other nodes may be on their way, the quota is that much smaller until its period ends.
  Not told of periods that began before the service had a ledger: there the counter is right.
  Events that are not taken yet look the same. So the numbers of a running service count as orphaned only what was still missing
  once all had arrived that was written when it was first seen (``backlog``), and until then as **waiting**.

Use beyond a quota, where settled costs may go, is compared, too; save of one in shadow, which counts no further than it goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec
import structlog

from apishield.core.model import SECOND_US, Mode, Verdict
from apishield.core.ports import Clock, CounterStore
from apishield.errors import StoreUnavailable
from apishield.services.backlog import Pipeline, Written
from apishield.services.key_entries import KeyEntry
from apishield.services.orphans import OrphanedCharges
from apishield.services.quota_use import KeyQuota, ledger_since_us, ledger_use, quotas_of
from apishield.services.snapshot import Snapshot
from apishield.stores.sql.database import Database

log = structlog.get_logger("apishield.reconcile")

LOOKS: Final = 3
KINDS: Final = ("missing", "orphaned", "waiting")
HASTY_SECONDS: Final = 1.0  # between looks, after a store came back: longer than events take to the ledger
HASTY_FOR_SECONDS: Final = 15.0  # so that nodes which come back to the store a little later are looked at, too
_ASKED_AT_ONCE: Final = 64
_PAUSES: Final = 20  # times as long as the look took: it never costs more than a twentieth of a node
_PERIOD_ENDS_US: Final = (
    5 * SECOND_US
)  # so close to its end a period is left alone: the charge might come into the next

_Place = tuple[str, int]  # counter's key, start of the period
_Name = tuple[str, str]  # of a quota: its key's id, its limit's name


class QuotaDrift(msgspec.Struct, frozen=True):
    """One quota that is not what the ledger says: ``missing`` or ``orphaned`` units, the other is 0."""

    tenant_id: str
    key_id: str
    limit: str
    unit: str
    ledger: int
    live: int
    missing: int
    orphaned: int
    healed: bool


class ReconcileStats(msgspec.Struct):
    """Plain numbers for the metrics, of the last round; ``rounds`` and ``healed_units`` of all.

    ``checked`` quotas are in use; of ``not_asked`` the counter could not be told, or its period was about to end.
    ``drift_units`` is by kind; ``waiting`` are units whose event may not be taken yet.
    """

    rounds: int = 0
    checked: int = 0
    not_asked: int = 0
    healed_units: int = 0
    at_us: int = 0
    drift_units: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    @property
    def orphan_charges(self) -> int:
        """Units that were charged and are not in the ledger."""
        return self.drift_units["orphaned"]


class _Look(msgspec.Struct, frozen=True):
    """How a quota stood, of one in shadow no further than it goes."""

    ledger: int
    live: int


class Reconciler:
    """Looks at all quotas that are in use; remembers the last looks. One for each store of counters.

    ``orphans`` gives back what is orphaned; without it, that stays. ``pipeline`` tells what is orphaned from what waits;
    without it all counts as orphaned.
    """

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        store: CounterStore,
        clock: Clock,
        orphans: OrphanedCharges | None = None,
        pipeline: Pipeline | None = None,
    ) -> None:
        self._database = database
        self._snapshot = snapshot
        self._store = store
        self._clock = clock
        self._orphans = orphans
        self._pipeline = pipeline
        self._orphaned: dict[_Name, int] = {}  # that was surely so when last asked
        self._seen: tuple[Written, dict[_Name, int]] | None = None  # with what the counters said then
        self._looks: dict[_Place, list[_Look]] = {}
        self._due = 0.0
        self._hasty_until = 0.0
        self.stats = ReconcileStats()

    @property
    def is_hasty(self) -> bool:
        """Whether the next look should come after ``HASTY_SECONDS``, not when a round comes by itself."""
        return asyncio.get_running_loop().time() < self._hasty_until

    def hasten(self) -> None:
        """Looks more often for a while: a store came back, and does not know what was admitted without it."""
        self._hasty_until = asyncio.get_running_loop().time() + HASTY_FOR_SECONDS

    async def tend(self) -> None:
        """A look whenever it is due: where one takes long, as with many keys, the pauses are longer, too."""
        now = asyncio.get_running_loop().time
        began = now()
        if began >= self._due:
            await self.step()
            self._due = now() + _PAUSES * (now() - began)

    def rest(self) -> None:
        """Forgets what it saw: another process looks now."""
        self._looks.clear()
        self._orphaned, self._seen = {}, None
        self.stats.drift_units = dict.fromkeys(self.stats.drift_units, 0)

    async def step(self, *, heal: bool = True) -> list[QuotaDrift]:
        """One look. Returns the drift that lasted, and mends it where it can.

        Raises what the database raises; a store that can't be reached is left for the next round.
        """
        now_us = self._clock()
        quotas = quotas_of(self._entries(), now_us)
        seen = self._seen
        has_arrived = seen is not None and self._pipeline is not None and await self._pipeline.has_arrived(seen[0])
        used, durable, since_us = await self._known(quotas, now_us)  # after that: it has what arrived
        in_use = [quota for quota in quotas if _place(quota) in used or _place(quota) in durable]
        live = await self._live(in_use)  # after the ledger: what it has, a counter must have
        found: list[QuotaDrift] = []
        looks: dict[_Place, list[_Look]] = {}
        for quota in in_use:
            place = _place(quota)
            if place in live:
                look = _Look(_counted(quota, used.get(place, 0)), _counted(quota, live[place]))
                looks[place] = [*self._looks.get(place, ()), look][-LOOKS - 1 :]
                if (drift := _drift(quota, looks[place], since_us)) is not None:
                    found.append(drift)
        self._looks = looks
        if heal:
            found = await self._heal(found, in_use)
        await self._tell_orphans(found, has_arrived=has_arrived)
        self._note(found, now_us)
        self.stats.checked, self.stats.not_asked = len(in_use), len(in_use) - len(live)
        return found

    def _entries(self) -> Iterable[KeyEntry]:
        return (entry for view in self._snapshot.tenants() for entry in view.keys.values())

    async def _known(self, quotas: Sequence[KeyQuota], now_us: int) -> tuple[dict[_Place, int], set[_Place], int]:
        """What the ledger has of each quota, which were ever charged, and since when there is a ledger."""
        by_start: dict[int, list[str]] = {}
        for quota in quotas:
            by_start.setdefault(quota.start_us, []).append(quota.counter.key)
        async with self._database.read() as tx:
            since_us = await ledger_since_us(tx)
            used = await ledger_use(tx, quotas, now_us)
            durable = {
                (counter_key, start_us)
                for start_us, counter_keys in by_start.items()
                for counter_key in await tx.usage.quotas(counter_keys, start_us)
            }
        return used, durable, since_us

    async def _live(self, quotas: Sequence[KeyQuota]) -> dict[_Place, int]:
        """What each counter says was used; those that can't be asked now are left away.

        A counter that its store has lost is seeded by being asked.
        """
        live: dict[_Place, int] = {}
        for first in range(0, len(quotas), _ASKED_AT_ONCE):
            some = quotas[first : first + _ASKED_AT_ONCE]
            answers = await asyncio.gather(*map(self._ask, some), return_exceptions=True)
            for quota, verdict in zip(some, answers, strict=True):
                if isinstance(verdict, BaseException):
                    if not isinstance(verdict, StoreUnavailable):
                        raise verdict
                elif _tells_of(quota, verdict):
                    live[_place(quota)] = quota.counter.limit.algorithm.ceiling - verdict.outcomes[0].remaining
        return live

    async def _ask(self, quota: KeyQuota) -> Verdict:
        answer = self._store.decide([quota.counter], [0])
        return answer if isinstance(answer, Verdict) else await answer

    async def _heal(self, found: Sequence[QuotaDrift], quotas: Sequence[KeyQuota]) -> list[QuotaDrift]:
        """Charges what is missing, gives back what is orphaned. Each difference is mended once: the looks at it begin anew."""
        by_name = {(quota.key_id, quota.counter.limit.name): quota for quota in quotas}
        given: dict[str, int] = {}
        orphaned = [(by_name[drift.key_id, drift.limit], drift.orphaned) for drift in found if drift.orphaned]
        if self._orphans is not None and orphaned:
            given = await self._orphans.give_back(orphaned)
        after: list[QuotaDrift] = []
        for drift in found:
            quota = by_name[drift.key_id, drift.limit]
            if drift.missing:
                self._looks.pop(_place(quota), None)  # whether or not it works: a call that failed may have run
                try:
                    await self._store.charge([quota.counter], [drift.missing])
                except StoreUnavailable:
                    pass
                else:
                    drift = msgspec.structs.replace(drift, healed=True)  # noqa: PLW2901  the same, mended
                    self.stats.healed_units += drift.missing
                    log.warning("quota.healed", key=drift.key_id, limit=drift.limit, units=drift.missing)
            elif units := given.get(quota.counter.key):
                self._looks.pop(_place(quota), None)
                drift = msgspec.structs.replace(drift, healed=units == drift.orphaned)  # noqa: PLW2901  the same, mended
                log.warning("quota.given_back", key=drift.key_id, limit=drift.limit, units=units)
            after.append(drift)
        return after

    async def _tell_orphans(self, found: Sequence[QuotaDrift], *, has_arrived: bool) -> None:
        """Tells which of ``found`` are surely orphaned: what a counter had that the ledger lacks after all has arrived."""
        orphaned = {(drift.key_id, drift.limit): drift.orphaned for drift in found if drift.orphaned}
        if self._pipeline is None:
            self._orphaned = orphaned
            return
        had = self._seen[1] if has_arrived and self._seen is not None else {}
        ledger = {(drift.key_id, drift.limit): drift.ledger for drift in found}
        self._orphaned = {
            name: min(units, max(self._orphaned.get(name, 0), had.get(name, 0) - ledger[name]))
            for name, units in orphaned.items()
        }
        if self._orphaned == orphaned:
            self._seen = None
        elif self._seen is None or has_arrived:
            written = await self._pipeline.written()
            live = {(drift.key_id, drift.limit): drift.live for drift in found}
            self._seen = None if written is None else (written, live)

    def _note(self, found: Sequence[QuotaDrift], now_us: int) -> None:
        stats = self.stats
        stats.rounds += 1
        stats.at_us = now_us
        orphaned = sum(self._orphaned.values())
        stats.drift_units = {
            "missing": sum(drift.missing for drift in found),
            "orphaned": orphaned,
            "waiting": sum(drift.orphaned for drift in found) - orphaned,
        }


def _place(quota: KeyQuota) -> _Place:
    return quota.counter.key, quota.start_us


def _counted(quota: KeyQuota, used: int) -> int:
    """What of ``used`` is held against each other: a quota in shadow is not charged what would not fit, the ledger is."""
    limit = quota.counter.limit
    return min(used, limit.algorithm.ceiling) if limit.mode is Mode.SHADOW else used


def _tells_of(quota: KeyQuota, verdict: Verdict) -> bool:
    """Whether a verdict is of the counter itself, in the period that is looked at, and not right at its end."""
    if verdict.degraded or verdict.denied or not verdict.outcomes:
        return False
    ends_us = verdict.now_us + verdict.outcomes[0].reset_us
    return abs(ends_us - quota.end_us) < SECOND_US and verdict.now_us < ends_us - _PERIOD_ENDS_US


def _drift(quota: KeyQuota, looks: Sequence[_Look], since_us: int) -> QuotaDrift | None:
    """The difference that was there at each of the last looks, where there is a ledger since ``since_us``."""
    if len(looks) < LOOKS:
        return None
    recent = looks[-LOOKS:]
    missing = max(0, min(look.ledger - look.live for look in recent))
    orphaned = max(0, min(before.live - after.ledger for before, after in pairwise(looks)))
    if quota.start_us < since_us:
        orphaned = 0
    if not missing and not orphaned:
        return None
    limit = quota.counter.limit
    return QuotaDrift(
        quota.tenant_id,
        quota.key_id,
        limit.name,
        limit.unit,
        recent[-1].ledger,
        recent[-1].live,
        missing,
        orphaned,
        healed=False,
    )
