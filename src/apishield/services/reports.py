"""What became of decisions: status, latency and bytes, told afterwards by middleware, gateways and SDKs.

A report is believed only with a decision id that was made for the same tenant (its MAC says so), within 24 hours, and once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import msgspec

from apishield.core.decision_ids import DecisionIds
from apishield.core.ports import Clock

MAX_REPORTS = 1000
MAX_AGE_MS = 24 * 3600 * 1000
_MOST_REMEMBERED = 500_000


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event of ``POST /v1/report``."""

    decision_id: Annotated[str, msgspec.Meta(max_length=100)]
    status: Annotated[int, msgspec.Meta(ge=100, le=599)]
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=86_400_000)]
    bytes: Annotated[int, msgspec.Meta(ge=0, le=2**50)] | None = None


class Rejection(msgspec.Struct, frozen=True):
    """Why one event was not taken; ``index`` is its place in the request."""

    index: int
    code: Literal["bad_request", "decision_unknown", "report_too_old"]
    message: str


class Receipt(msgspec.Struct, frozen=True):
    """How many events were new, how many had been told before, and which could not be taken."""

    accepted: int
    duplicates: int
    rejected: list[Rejection]


class ResultObserver(Protocol):
    """Counts results, for the metrics."""

    def observe_result(self, status: int, latency_seconds: float) -> None:
        """Counts one result."""
        ...


class ReportService:
    """Takes reports. Remembers which decisions of the last 24 hours were reported, to this process."""

    def __init__(self, ids: DecisionIds, clock: Clock, observer: ResultObserver) -> None:
        self._ids = ids
        self._clock = clock
        self._observer = observer
        self._seen: dict[tuple[int, int], None] = {}

    def take(self, tenant_id: str, reports: Sequence[Report | str]) -> Receipt:
        """Takes ``reports`` of a tenant; a text in place of one says why it could not be read."""
        accepted = duplicates = 0
        rejected: list[Rejection] = []
        now_ms = self._clock() // 1000
        for index, report in enumerate(reports):
            if isinstance(report, str):
                rejected.append(Rejection(index, "bad_request", report))
                continue
            reference = self._ids.read(report.decision_id, tenant_id)
            if reference is None:
                message = "There is no such decision of this tenant."
                rejected.append(Rejection(index, "decision_unknown", message))
                continue
            if now_ms - reference.at_ms > MAX_AGE_MS:
                message = "The decision is older than 24 hours; its books are closed."
                rejected.append(Rejection(index, "report_too_old", message))
                continue
            if (reference.spool, reference.sequence) in self._seen:
                duplicates += 1
                continue
            self._remember(reference.spool, reference.sequence)
            self._observer.observe_result(report.status, report.latency_ms / 1000)
            accepted += 1
        return Receipt(accepted, duplicates, rejected)

    def _remember(self, spool: int, sequence: int) -> None:
        self._seen[spool, sequence] = None
        if len(self._seen) > _MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]  # dictionaries keep their order: the oldest goes
