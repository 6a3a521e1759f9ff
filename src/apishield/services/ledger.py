"""Takes events into the ledger: each exactly once, whatever is killed, repeated or reordered on the way.

Owns: what one transaction holds, and what happens when two workers meet. Does not own: where events wait (``stores.spool``,
``stores.kafka``), how often this is called (``workers``), what events come to (``services.ledger_batch``, ``analytics``).

An intake is read, sorted and summed before its transaction, which then only writes: the position of the stream (only where it
is where the caller believed, under the caller's claim), the bits of results, sums, decisions. What was read before stands then,
too: positions, marks and bits are written only where they are as they were read.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.periods import HOUR_DAYS, MINUTE_DAYS
from apishield.analytics.steps import Step
from apishield.core.events import Intake, SpoolPart
from apishield.core.ports import Clock
from apishield.errors import ProblemError
from apishield.services.ledger_batch import LATEST_RESULT_US, Batch, RecentDecisions
from apishield.services.ledger_names import SeriesNames
from apishield.stores.sql.database import Database
from apishield.stores.sql.failures import unavailable, was_undone_for_another
from apishield.stores.sql.ledger import house, pending
from apishield.stores.sql.ledger.addresses import address_rows, crowded_hours, thin_out
from apishield.stores.sql.ledger.archive import look_up
from apishield.stores.sql.ledger.chunks import INSERT as INSERT_CHUNK
from apishield.stores.sql.ledger.positions import Claim, Fenced, Positions
from apishield.stores.sql.ledger.rows import RollupRows
from apishield.stores.sql.ledger.statements import Row, run_many
from apishield.stores.sql.ledger.sums import add_levels, add_rows
from apishield.stores.sql.ledger.tables import (
    address_hour,
    rollup_day,
    rollup_hour,
    rollup_minute,
    rollup_units,
    rollup_week,
)
from apishield.stores.sql.ledger.taken import Contended, TakenBits, forget_results

__all__ = ["Applied", "Claim", "Fenced", "LedgerService", "LedgerStats"]

log = structlog.get_logger("apishield.ledger")

PENDING_PER_TENANT: Final = 100_000

_DAY_US: Final = 24 * 3_600_000_000
_GRACE_S: Final = 3_600  # a question that was planned before a bucket was due may still be reading it
_MINUTES_KEPT_S: Final = MINUTE_DAYS * 86_400 + _GRACE_S
_HOURS_KEPT_S: Final = HOUR_DAYS * 86_400 + _GRACE_S
_BITS_KEPT_US: Final = 2 * _DAY_US
_STREAMS_KEPT_US: Final = 400 * _DAY_US  # a spool that is found later than this would be counted from its beginning
_JOINABLE_DAYS: Final = (
    2  # decisions are kept that long even where none shall be shown: results are put together with them
)
_CHUNKS_OPENED: Final = 1_000
_PENDING_AT_ONCE: Final = 5_000
_TRIES: Final = 3
_DELETED_AT_ONCE: Final = 2_000
_TABLES: Final = {Step.MINUTE: rollup_minute, Step.HOUR: rollup_hour, Step.DAY: rollup_day}


class AnswerObserver(Protocol):
    """Counts what protected APIs answered, for the metrics."""

    def observe_answers(self, statuses: Mapping[int, int], latencies_us: Sequence[int]) -> None:
        """Counts answers that are in the ledger now: how often each status; of which some latencies are known."""
        ...


class LedgerStats(msgspec.Struct):
    """What this process has taken, as plain numbers."""

    applies: int = 0
    events: int = 0
    duplicates: int = 0
    """Frames that had been taken from another message, and results that had been told."""
    late_dropped: int = 0
    """Results that came over 24 hours after their decision, or whose decision never came."""
    pending: int = 0
    """Results that were put aside until their decision comes."""
    pending_dropped: int = 0
    """Those that were not, because their tenant had too many already."""
    settled: int = 0
    fenced: int = 0
    contended: int = 0
    clamped: int = 0
    broken_frames: int = 0
    other_series: int = 0
    newest_us: int = 0
    """When the newest decision was made that is in the ledger."""


class Applied(msgspec.Struct, frozen=True):
    """What one intake came to: how many events, and the claim at its new position."""

    claim: Claim
    events: int
    duplicates: int


class LedgerService:
    """The ledger of one worker. Several, in one or many processes, may write to one database.

    ``observer`` hears of each result that this worker counts, after the commit: only here is known which are new.
    """

    def __init__(
        self, database: Database, clock: Clock, *, replay_days: int = 7, observer: AnswerObserver | None = None
    ) -> None:
        self._database = database
        self._clock = clock
        self._replay_days = replay_days
        self._observer = observer
        self._recent = RecentDecisions()
        self._names = SeriesNames(database)
        self._marks: dict[str, tuple[int, dict[int, int]]] = {}
        self.stats = LedgerStats()

    # --- taking events ------------------------------------------------------------------------------------------------

    async def claim(self, stream: str, owner: str) -> Claim:
        """Makes ``owner`` the only one who may take ``stream``, and tells from where on.

        Whoever claimed it before is ``Fenced`` from now on. Raises ``ProblemError``, 503 ``database_unavailable``.
        """
        async with self._database.transaction() as work:
            positions = Positions(work.connection)
            claim = await positions.claim(stream, owner, self._clock())
            self._marks[stream] = claim.epoch, await positions.marks(stream)
        return claim

    async def apply(self, claim: Claim, intake: Intake) -> Applied:
        """Takes ``intake`` in one transaction: all of it, or, where this raises, nothing.

        Raises ``Fenced`` where the claim or the position is not what the database says, also after a commit whose answer was
        lost: claim the stream again and go on from there. Raises ``ProblemError``, 503 ``database_unavailable`` or 507
        ``storage_full``: try again.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                with _uncollected():
                    return await self._apply(claim, intake, patient=not tries_left)
            except Contended:
                self.stats.contended += 1
            except ProblemError as problem:
                if not tries_left or not was_undone_for_another(problem):
                    raise
                self.stats.contended += 1
            except Fenced:
                self.stats.fenced += 1
                self._marks.pop(claim.stream, None)
                raise
        raise unavailable()

    async def _apply(self, claim: Claim, intake: Intake, *, patient: bool) -> Applied:
        now_us = self._clock()
        fresh, marks, repeated = await self._fresh(claim, intake)
        bits = TakenBits()
        if not patient:  # look first, and write only if it is still so
            batch = self._read(now_us, fresh)
            async with self._database.read() as work:
                await self._join(work.connection, batch, bits)
            rows = await self._rows(batch)
        async with self._database.transaction() as work:
            connection = work.connection
            positions = Positions(connection)
            await positions.advance(claim, intake.start, intake.end, now_us)
            await positions.mark(claim.stream, marks, now_us)
            if patient:  # others were quicker twice: hold what they would change
                batch = self._read(now_us, fresh)
                self._names.forget()  # and trust no number that is given in here, in case all of it is undone
                await self._join(connection, batch, bits, lock=True)
                rows = await self._rows(batch, connection)
                self._names.forget()
            await bits.write(connection)
            await self._write(connection, rows, batch)
        self._note(claim, batch, marks, repeated)
        return Applied(Claim(claim.stream, intake.end, claim.epoch), batch.events, batch.duplicates + repeated)

    async def _fresh(self, claim: Claim, intake: Intake) -> tuple[list[SpoolPart], dict[int, int], int]:
        """The frames that were not taken yet, the new marks, how many were.

        A spool's own stream needs no marks: its position says as much. What is remembered of marks stands as long as the
        claim does: only who holds it writes them.
        """
        if not claim.stream.startswith("kafka:"):
            return intake.parts, {}, 0
        epoch, known = self._marks.get(claim.stream, (None, {}))
        if epoch != claim.epoch:
            async with self._database.read() as work:
                known = await Positions(work.connection).marks(claim.stream)
            self._marks[claim.stream] = claim.epoch, known
        marks: dict[int, int] = {}
        parts: list[SpoolPart] = []
        repeated = 0
        for part in intake.parts:
            mark = marks.get(part.spool, known.get(part.spool, -1))
            frames = []
            for frame in part.frames:
                if frame.end > mark:
                    frames.append(frame)
                    mark = frame.end
            repeated += len(part.frames) - len(frames)
            if frames:
                parts.append(SpoolPart(part.spool, frames))
                marks[part.spool] = mark
        return parts, marks, repeated

    def _read(self, now_us: int, parts: Iterable[SpoolPart]) -> Batch:
        batch = Batch(now_us, self._recent, details=self._replay_days > 0)
        for part in parts:
            for frame in part.frames:
                try:
                    events = frame.events()
                except msgspec.DecodeError as error:
                    batch.broken_frames += 1
                    log.error("ledger.broken_frame", spool=f"{part.spool:08x}", end=frame.end, error=str(error)[:200])
                else:
                    batch.add(part.spool, events)
        return batch

    @staticmethod
    async def _join(connection: AsyncConnection, batch: Batch, bits: TakenBits, *, lock: bool = False) -> None:
        """Finds out which results are new, and their decisions."""
        if batch.late:
            await bits.load(connection, batch.results(), lock=lock)
            batch.take(bits)
            batch.learn(await look_up(connection, batch.missing(), at_most=_CHUNKS_OPENED))

    async def _rows(self, batch: Batch, connection: AsyncConnection | None = None) -> _Rows:
        """Sums the batch."""
        await self._names.learn_endpoints(batch.tenants(), batch.now_us // 1_000_000, connection)
        sums = batch.summed(self._names.knows_endpoint)
        cells = list(sums.cells())
        await self._names.bound_units(cells, connection)
        rollups = RollupRows(await self._names.place(cells, connection))
        addresses = address_rows(sums.addresses) if self._replay_days else []
        return _Rows(rollups, addresses, batch.chunks.rows())

    async def _write(self, connection: AsyncConnection, rows: _Rows, batch: Batch) -> None:
        await run_many(connection, INSERT_CHUNK, rows.chunks)
        if batch.waiting:
            await self._put_aside(connection, batch)
        await add_rows(connection, address_hour, rows.addresses)
        await add_rows(connection, rollup_units, rows.rollups.units)
        await add_rows(connection, rollup_week, rows.rollups.weeks)
        for levels in (rows.rollups.cold, rows.rollups.hot):
            await add_levels(connection, [(table, step.seconds, levels[step]) for step, table in _TABLES.items()])

    @staticmethod
    async def _put_aside(connection: AsyncConnection, batch: Batch) -> None:
        """Keeps results whose decision isn't there, as many as their tenant may have waiting."""
        waiting = await pending.count_waiting(connection, {event.tenant_id for event in batch.waiting})
        kept = []
        for event in batch.waiting:
            if waiting[event.tenant_id] < PENDING_PER_TENANT:
                waiting[event.tenant_id] += 1
                kept.append(event)
        batch.waiting_dropped = len(batch.waiting) - len(kept)
        await pending.add_waiting(connection, kept, batch.now_us)

    def _note(self, claim: Claim, batch: Batch, marks: dict[int, int], repeated: int) -> None:
        """After the commit: what is true now."""
        if marks:
            epoch, known = self._marks.get(claim.stream, (claim.epoch, {}))
            if epoch == claim.epoch:
                known.update(marks)
        self._observe(batch)
        batch.remember()
        stats = self.stats
        stats.applies += 1
        stats.events += batch.events
        stats.duplicates += repeated + batch.duplicates
        stats.late_dropped += batch.late_dropped
        stats.pending += len(batch.waiting) - batch.waiting_dropped
        stats.pending_dropped += batch.waiting_dropped
        stats.clamped += batch.clamped
        stats.broken_frames += batch.broken_frames
        stats.other_series = self._names.other_series
        stats.newest_us = max(stats.newest_us, batch.newest_us)

    def _observe(self, batch: Batch) -> None:
        if self._observer is not None:
            self._observer.observe_answers(*batch.answers())

    # --- results that wait --------------------------------------------------------------------------------------------

    async def settle_pending(self) -> int:
        """Puts waiting results together with decisions that have come meanwhile. Returns how many.

        Each waits longer from try to try, and is dropped, and counted, 24 hours after its decision.
        """
        now_us = self._clock()
        async with self._database.read() as work:
            if not await pending.is_due(work.connection, now_us):
                return 0
        async with self._database.transaction() as work:  # other workers leave them alone for a while
            due = await pending.take_due(work.connection, now_us, _PENDING_AT_ONCE)
            await pending.postpone(work.connection, due, now_us)
        batch = Batch(now_us, self._recent, details=self._replay_days > 0)
        batch.late = [one.event for one in due]
        async with self._database.read() as work:
            batch.learn(await look_up(work.connection, batch.missing(), at_most=_CHUNKS_OPENED))
        rows = await self._rows(batch)
        waiting = set(map(id, batch.waiting))
        joined = [one for one in due if id(one.event) not in waiting]
        expired = [one for one in due if id(one.event) in waiting and now_us - one.at_us > LATEST_RESULT_US]
        batch.waiting = []
        try:
            async with self._database.transaction() as work:
                if await pending.drop(work.connection, [*joined, *expired]) != len(joined) + len(expired):
                    raise Contended  # another worker was quicker, and has counted some of them
                await self._write(work.connection, rows, batch)
        except Contended:
            self.stats.contended += 1
            return 0
        self._observe(batch)
        batch.remember()
        self.stats.settled += len(joined)
        self.stats.late_dropped += len(expired)
        return len(joined)

    # --- what is kept -------------------------------------------------------------------------------------------------

    async def keep_house(self) -> None:
        """Forgets what is older than it is kept, in short transactions. Several workers may do it at once."""
        now_us = self._clock()
        now_s = now_us // 1_000_000
        async with self._database.read() as work:
            sets = await house.all_sets(work.connection)
            tenants = await house.all_tenants(work.connection)
            crowded = await crowded_hours(work.connection, now_s - 86_400, now_s - 3_600)
        for set_id in sets:
            await self._forget_buckets("minute", set_id, now_s - _MINUTES_KEPT_S)
            await self._forget_buckets("hour", set_id, now_s - _HOURS_KEPT_S)
        for place in crowded:
            async with self._database.transaction() as work:
                await thin_out(work.connection, *place)
        for tenant_id in tenants:
            await self._forget_decisions(tenant_id, now_us)
        await self._forget_streams(now_us)

    async def _forget_buckets(self, step: str, set_id: int, before_s: int) -> None:
        async with self._database.read() as work:
            oldest = await house.oldest(work.connection, step, set_id)
        before_s -= before_s % Step(step).seconds
        while oldest is not None and oldest < before_s:
            async with self._database.transaction() as work:
                until_s = min(before_s, oldest + house.PIECE_S[step])
                await house.forget_buckets(work.connection, step, set_id, until_s)
                oldest = await house.oldest(work.connection, step, set_id)

    async def _forget_decisions(self, tenant_id: str, now_us: int) -> None:
        before_us = now_us - max(self._replay_days, _JOINABLE_DAYS) * _DAY_US
        before_s = (now_us - self._replay_days * _DAY_US) // 1_000_000
        while True:
            async with self._database.transaction() as work:
                deleted = await house.forget_decisions(work.connection, tenant_id, before_us, _DELETED_AT_ONCE)
                deleted += await house.forget_addresses(work.connection, tenant_id, before_s, _DELETED_AT_ONCE)
            if deleted < _DELETED_AT_ONCE:
                return

    async def _forget_streams(self, now_us: int) -> None:
        async with self._database.transaction() as work:
            await forget_results(work.connection, before_us=now_us - _BITS_KEPT_US, at_most=100_000)
            await Positions(work.connection).forget(before_us=now_us - _STREAMS_KEPT_US)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Spares the garbage collector a look at a hundred thousand new objects, none of which refers to itself.

    Until they are gone: it would begin with all that is there when it is let loose.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Rows(msgspec.Struct, frozen=True):
    """All that one transaction adds to tables."""

    rollups: RollupRows
    addresses: Sequence[Row]
    chunks: Sequence[Row]
