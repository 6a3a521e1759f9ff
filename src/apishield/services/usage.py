"""What keys used: where their limits stand, and what the ledger says of them.

Owns: last use of keys, the durable side of quotas (noted on the hot path in plain dictionaries, written behind each second and
at shutdown), ``GET /v1/keys/{id}/usage``. Does not own: live counters (``CounterStore``), totals (the ledger).

A process that is killed loses what it noted within the last second; the ledger, which loses nothing, then sets quotas right
(``reconcile``). A database that can't be reached loses nothing: notes stay until they are written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec

from apishield.analytics.periods import Segment
from apishield.analytics.rollup import Dims
from apishield.analytics.steps import Step
from apishield.core.counter_keys import subject_of, subject_text, tenant_of
from apishield.core.model import SECOND_US, Counter, Quota, Verdict
from apishield.core.outcome import Outcome
from apishield.core.ports import Clock, CounterStore, QuotaUse
from apishield.core.records import Actor, Key, Policy
from apishield.errors import NoAnswer, ProblemError
from apishield.services.quota_lookups import QuotaLookups
from apishield.services.quota_use import seeds
from apishield.services.shadow import ShadowNotes, ShadowReport, read_report
from apishield.services.snapshot import Snapshot
from apishield.stores.sql.analytics.plan import Plan, Selection, Sums
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.database import Database


class LimitUsage(msgspec.Struct, frozen=True):
    """Where one limit of a key stands; asking charged nothing. ``used`` may be more than ``limit``: what was settled counts."""

    name: str
    strategy: str
    unit: str
    limit: int
    remaining: int
    used: int
    window_seconds: float | None
    reset_seconds: float


class QuotaUsage(msgspec.Struct, frozen=True):
    """Where one quota of a key stands. ``period`` is ``2026-11`` or ``2026-11-23``, in the quota's time zone.

    ``used`` may be more than ``limit``, as of any limit.
    """

    name: str
    period: str
    unit: str
    limit: int
    used: int
    remaining: int
    resets_at_us: int


class KeyTotals(msgspec.Struct, frozen=True):
    """Checks of a key: today and this month (UTC), and of this month how many were allowed and refused."""

    today: int
    this_month: int
    allowed: int
    refused: int


class KeyUsage(msgspec.Struct, frozen=True):
    """The whole answer of ``GET /v1/keys/{id}/usage``.

    ``fresh`` says whether all that this process has decided is in the totals; limits and quotas are live.
    """

    key_id: str
    rate_limits: list[LimitUsage]
    quotas: list[QuotaUsage]
    totals: KeyTotals
    fresh: bool


class UsageService:
    """Notes what happens (``touch``, ``note``), writes it behind (``flush``), and answers what a key used."""

    def __init__(self, snapshot: Snapshot, database: Database, clock: Clock) -> None:
        self._snapshot = snapshot
        self._database = database
        self._clock = clock
        self.shadow = ShadowNotes()
        self._counters: CounterStore | None = None
        self._fresh: Callable[[], Awaitable[bool]] | None = None
        self._last_used: dict[str, int] = {}
        self._quotas: dict[tuple[str, int], QuotaUse] = {}
        self._being_written: dict[tuple[str, int], QuotaUse] = {}
        self._flushing = asyncio.Lock()
        self._lookups = QuotaLookups(self._read)

    async def close(self) -> None:
        """Ends what is being read; before the database is let go of."""
        await self._lookups.close()

    def use(self, counters: CounterStore, fresh: Callable[[], Awaitable[bool]]) -> None:
        """Names the store whose live counters ``key_usage`` looks at; it in turn needs this service to seed its quotas.

        ``fresh`` waits until the ledger holds what this process has answered, not for long; whether it does.
        """
        self._counters = counters
        self._fresh = fresh

    # --- the hot path -------------------------------------------------------------------------------------------------

    def touch(self, credential_id: str, now_us: int) -> None:
        """Notes that a token or service key was used."""
        self._last_used[credential_id] = now_us

    def note(self, counter_key: str, period_start_us: int, used: int, at_us: int) -> None:
        """Remembers the latest use of a quota (port ``QuotaLedger``)."""
        self._quotas[counter_key, period_start_us] = QuotaUse(counter_key, period_start_us, used, at_us)

    async def load(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        """Durable use of quotas, with what is noted but not yet written (port ``QuotaLedger``)."""
        used = await self._lookups.used(counter_keys, period_start_us)
        for counter_key in counter_keys:
            for notes in (self._quotas, self._being_written):
                noted = notes.get((counter_key, period_start_us))
                if noted is not None:
                    used[counter_key] = max(noted.used, used.get(counter_key, 0))
        return used

    async def _read(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        async with self._database.read() as tx:
            used = await tx.usage.quotas(counter_keys, period_start_us)
            for counter_key, units in (
                await seeds(tx, self._snapshot, counter_keys, period_start_us, self._clock())
            ).items():
                used[counter_key] = max(units, used.get(counter_key, 0))
        return used

    def keeps(self, counter: Counter) -> bool:
        """Whether the ledger of events knows all that is admitted of a quota: seeds and ``reconcile`` bring it back.

        Those are the quotas that are a key's own. Of a policy's, and of one that charges refusals, only the counter knows.
        """
        key_id = subject_of(subject_text(counter.key)).get("key")
        view = self._snapshot.tenant(tenant_of(counter.key))
        entry = view.keys.get(key_id) if view is not None and key_id is not None else None
        if entry is None or counter.limit.charge_refused:
            return False
        return any(limit.id == counter.limit.id for limit in entry.key.quotas)

    # --- behind -------------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Writes what was noted. Raises what the database raises; everything is then kept for the next time.

        Whoever calls while another call is writing waits for it: what it reads afterwards holds all that was noted before.
        """
        async with self._flushing:
            await self._write()

    async def _write(self) -> None:
        quotas, self._quotas = self._quotas, {}
        last_used, self._last_used = self._last_used, {}
        shadow = self.shadow.take()
        if not (quotas or last_used or shadow):
            return
        self._being_written = quotas
        try:
            async with self._database.transaction() as tx:
                await tx.usage.write_quotas(quotas.values())
                await shadow.write(tx)
                for repository, prefix in ((tx.keys, "key_"), (tx.tokens, "tok_")):
                    await repository.touch({id_: at_us for id_, at_us in last_used.items() if id_.startswith(prefix)})
        except BaseException:
            self.shadow.put_back(shadow)
            self._quotas = quotas | self._quotas
            self._last_used = last_used | self._last_used
            raise
        finally:
            self._being_written = {}

    # --- questions ----------------------------------------------------------------------------------------------------

    async def key_usage(self, actor: Actor, key: Key) -> KeyUsage:
        """What ``key`` used and has left, of live counters and of totals. Charges nothing."""
        assert self._counters is not None
        view = self._snapshot.tenant(key.tenant_id)
        entry = view.keys.get(key.id) if view is not None else None
        if entry is None:
            raise ProblemError("not_found", f"There is no key {key.id!r}.")
        limits = entry.limits
        asked = self._counters.decide(limits.counters, [0] * len(limits.counters))
        verdict = asked if isinstance(asked, Verdict) else await asked
        measured = list(zip(limits.counters, limits.meters, verdict.outcomes, strict=True))
        fresh = self._fresh is None or await self._fresh()
        now_us = self._clock()
        return KeyUsage(
            key.id,
            [
                LimitUsage(
                    counter.limit.name,
                    meter.strategy,
                    meter.unit,
                    counter.limit.algorithm.ceiling,
                    max(0, outcome.remaining),
                    counter.limit.algorithm.ceiling - outcome.remaining,
                    meter.window_seconds,
                    -(-outcome.reset_us // 1000) / 1000,
                )
                for counter, meter, outcome in measured
                if not isinstance(counter.limit.algorithm, Quota)
            ],
            [_quota_usage(counter, outcome, verdict.now_us) for counter, _, outcome in measured if _is_quota(counter)],
            await self._totals(key, now_us),
            fresh,
        )

    async def shadow_report(self, policy: Policy) -> ShadowReport:
        """What ``policy`` would have refused while it, or its limit, was in shadow."""
        await self.flush()
        async with self._database.read() as tx:
            return await read_report(tx, policy.tenant_id, policy.id)

    async def reset(self, actor: Actor, key: Key) -> None:
        """Forgets the live state of the rate limits of ``key``, and says so in the audit log.

        Quotas stay as they are, since bills stand on them; so do the limits that the key shares with others of its customer.

        Raises ``StoreUnavailable`` where nothing was reset, and ``NoAnswer`` where the store did not say: it may do so yet,
        so the audit log then keeps that it was ordered, with an entry ``key.limits_reset_unanswered`` behind it.
        """
        assert self._counters is not None
        view = self._snapshot.tenant(key.tenant_id)
        entry = view.keys.get(key.id) if view is not None else None
        own = {limit.id for limit in key.rate_limits}
        silent: NoAnswer | None = None
        async with self._database.transaction() as tx:
            await tx.audit.record(actor, action="key.limits_reset", target=key.id)
            if entry is not None:
                try:
                    await self._counters.reset(
                        [counter for counter in entry.limits.counters if counter.limit.id in own]
                    )
                except NoAnswer as error:
                    silent = error
                    await tx.audit.record(actor, action="key.limits_reset_unanswered", target=key.id)
        if silent is not None:
            raise silent

    async def _totals(self, key: Key, now_us: int) -> KeyTotals:
        now = datetime.fromtimestamp(now_us // SECOND_US, UTC)
        today = now.replace(hour=0, minute=0, second=0)
        async with self._database.read() as tx:
            reader = RollupReader(tx.connection, key.tenant_id, key.environment)
            of_today = await _sum(reader, key, today, today)
            of_month = await _sum(reader, key, today.replace(day=1), today)
        return KeyTotals(of_today.requests, of_month.requests, of_month.allowed, of_month.refused)


async def _sum(reader: RollupReader, key: Key, first_day: datetime, last_day: datetime) -> Sums:
    days = Segment(Step.DAY, int(first_day.timestamp()), int(last_day.timestamp()) + Step.DAY.seconds)
    found = await reader.sums(Plan(Dims.KEY, [days], Selection(key_id=key.id)))
    return found[0][1] if found else Sums()


def _is_quota(counter: Counter) -> bool:
    return isinstance(counter.limit.algorithm, Quota)


def _quota_usage(counter: Counter, outcome: Outcome, now_us: int) -> QuotaUsage:
    quota = counter.limit.algorithm
    assert isinstance(quota, Quota)
    return QuotaUsage(
        counter.limit.name,
        _in_zone(now_us, quota.time_zone, "%Y-%m" if quota.period == "month" else "%Y-%m-%d"),
        counter.limit.unit,
        quota.requests,
        quota.requests - outcome.remaining,
        max(0, outcome.remaining),
        now_us + outcome.reset_us,
    )


def _in_zone(now_us: int, time_zone: str, pattern: str) -> str:
    return datetime.fromtimestamp(now_us // SECOND_US, ZoneInfo(time_zone)).strftime(pattern)
