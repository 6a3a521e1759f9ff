"""What became of decisions: status, latency and bytes, told afterwards by middleware, gateways and SDKs.

A report is believed only with a decision id that was made for the same tenant (its MAC says so), within 24 hours, and once.
One with a cost settles what the check reserved; one about a check that holds slots frees them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
import structlog

from apishield.core.decision import Cost, Costs
from apishield.core.decision_ids import DecisionIds
from apishield.core.events import ResultEvent
from apishield.core.ports import Clock, EventLog
from apishield.errors import StoreUnavailable
from apishield.services.settlement import Settled, SettlementService, no_room

log = structlog.get_logger("apishield.reports")

MAX_REPORTS = 1000
MAX_AGE_MS = 24 * 3600 * 1000
_MOST_REMEMBERED = 500_000


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event of ``POST /v1/report``."""

    decision_id: Annotated[str, msgspec.Meta(max_length=100)]
    status: Annotated[int, msgspec.Meta(ge=100, le=599)]
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=86_400_000)]
    bytes: Annotated[int, msgspec.Meta(ge=0, le=2**40)] | None = None
    cost: Cost | Costs | None = None


class Rejection(msgspec.Struct, frozen=True):
    """Why one event was not taken; ``index`` is its place in the request."""

    index: int
    code: Literal["bad_request", "decision_unknown", "report_too_old", "not_reserved", "store_unavailable"]
    message: str


class Receipt(msgspec.Struct, frozen=True):
    """How many events were new, how many had been told before, and which could not be taken.

    `duplicates` are those that the process which answers knows of. What another process or node was told is `accepted` here,
    and is counted once all the same, in analytics, metrics and bills.
    """

    accepted: int
    duplicates: int
    rejected: list[Rejection]


_NEW: Final = "new"
_AGAIN: Final = "again"
_SETTLES: Final = "settles"
_SETTLES_AGAIN: Final = "settles again"  # its result was told before, its cost perhaps not
_NOW_SETTLED: Final = "now settled"
_TOO_LATE: Final = "too late"
_Outcome = Literal["new", "again", "settles", "settles again", "now settled", "too late"] | Rejection
_NOT_RESERVED: Final = 'The check reserved nothing, so its cost can\'t be settled. Ask it with "reserve": true.'
_GONE: Final = (
    "Nothing is reserved any more: the time that the check gave for it (settle_within_seconds) is over, or it was settled "
    "or released before. So it stays charged as it is. The status and latency were taken."
)


class ReportService:
    """Takes reports. Remembers which decisions of the last 24 hours were reported, to this process: the ledger, for good.

    So what another process was told is "accepted" here, and counts once all the same. To ask the database costs forty times
    as much as to take a report, and would make reports wait for it.
    """

    def __init__(self, ids: DecisionIds, settlement: SettlementService, clock: Clock, events: EventLog) -> None:
        self._ids = ids
        self._settlement = settlement
        self._events = events
        self._clock = clock
        self._seen: dict[tuple[int, int], None] = {}

    async def take(self, tenant_id: str, reports: Sequence[Report | str]) -> Receipt:
        """Takes ``reports`` of a tenant; a text in place of one says why it could not be read.

        Raises ``ProblemError``, 507 ``storage_full``, where they can't be written down now: before any of them settles.
        """
        if not self._events.has_room_for(len(reports)):
            raise no_room()
        taken = [self._read(tenant_id, index, report) for index, report in enumerate(reports)]
        first_told = [index for index, outcome in enumerate(taken) if outcome == _SETTLES]
        settling = [
            self._settle(tenant_id, index, report, told=taken[index] == _SETTLES_AGAIN)
            for index, report in enumerate(reports)
            if not isinstance(report, str) and taken[index] in {_SETTLES, _SETTLES_AGAIN}
        ]
        for index, outcome in await asyncio.gather(*settling):
            taken[index] = outcome
        for index in first_told:
            report, outcome = reports[index], taken[index]
            if not isinstance(report, str) and not isinstance(outcome, Rejection):
                # Also where its cost had been told, or its charge given back: the ledger knows whether the result was.
                is_new = self._note(tenant_id, report)
                if outcome == _NEW and not is_new:
                    taken[index] = _AGAIN if report.cost is None else _NOW_SETTLED
        taken = [
            Rejection(index, "not_reserved", _GONE) if outcome == _TOO_LATE else outcome
            for index, outcome in enumerate(taken)
        ]
        return Receipt(
            accepted=taken.count(_NEW) + taken.count(_NOW_SETTLED),
            duplicates=taken.count(_AGAIN),
            rejected=[outcome for outcome in taken if isinstance(outcome, Rejection)],
        )

    def _note(self, tenant_id: str, report: Report) -> bool:
        """Writes a result down, unless this process has done so; whether it has now."""
        ref = self._ids.read(report.decision_id, tenant_id)
        if ref is None or (ref.spool, ref.sequence) in self._seen:
            return False
        self._remember(ref.spool, ref.sequence)
        latency_us = round(report.latency_ms * 1000)
        self._events.append(
            ResultEvent(
                ref.spool, ref.sequence, ref.at_ms, tenant_id, self._clock(), report.status, latency_us, report.bytes
            )
        )
        return True

    def _read(self, tenant_id: str, index: int, report: Report | str) -> _Outcome:
        """What can be said of a report without the store; one that needs no store is written down."""
        if isinstance(report, str):
            return Rejection(index, "bad_request", report)
        reference = self._ids.read(report.decision_id, tenant_id)
        if reference is None:
            return Rejection(index, "decision_unknown", "There is no such decision of this tenant.")
        if self._clock() // 1000 - reference.at_ms > MAX_AGE_MS:
            return Rejection(index, "report_too_old", "The decision is older than 24 hours; its books are closed.")
        if report.cost is not None and not reference.held:
            return Rejection(index, "not_reserved", _NOT_RESERVED)
        told = (reference.spool, reference.sequence) in self._seen
        if reference.held and (report.cost is not None or not told):
            return _SETTLES_AGAIN if told else _SETTLES  # how often the cost is told is for the record to say
        # At once: whoever is told meanwhile that it is known must be able to rely on it.
        return _NEW if self._note(tenant_id, report) else _AGAIN

    async def _settle(self, tenant_id: str, index: int, report: Report, *, told: bool) -> tuple[int, _Outcome]:
        units = {"requests": report.cost} if isinstance(report.cost, int) else report.cost
        try:
            settled = await self._settlement.settle(tenant_id, report.decision_id, units)
        except StoreUnavailable as error:
            log.warning("report.not_settled", reason=str(error))
            return index, Rejection(index, "store_unavailable", f"{error.told} Report it again.")
        if settled is Settled.NOT_RESERVED:
            return index, Rejection(index, "not_reserved", _NOT_RESERVED)
        if units is not None and settled is Settled.TOO_LATE:
            return index, _TOO_LATE
        if units is not None and settled is Settled.BEFORE:
            return index, _AGAIN
        return index, _NOW_SETTLED if told else _NEW

    def _remember(self, spool: int, sequence: int) -> None:
        self._seen[spool, sequence] = None
        if len(self._seen) > _MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]  # dictionaries keep their order: the oldest goes
