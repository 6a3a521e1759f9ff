"""What a replay counts, the report that it comes to, and the job that makes it."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from apishield.core.counter_keys import subject_of, subject_text
from apishield.core.model import SECOND_US, Counter
from apishield.core.records import Policy

HOUR_US: Final = 3600 * SECOND_US
MOST_SUBJECTS: Final = 100
"""So many subjects are shown, those that would have been refused most."""

MOST_REFUSED_SUBJECTS: Final = 50_000


class RefusedSubject(msgspec.Struct):
    """Whom the policy would have refused, how often, and when first and last."""

    subject: dict[str, str]
    would_refuse: int
    first_us: int
    last_us: int


class ReplayHour(msgspec.Struct):
    """An hour (UTC): how many decisions the policy was asked about, and how many it would have refused."""

    at_us: int
    of: int = 0
    would_refuse: int = 0


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy would have done.

    ``decisions`` is all that were recorded, peeks aside: the policy applied to ``of`` of them, ``refused_already`` were
    refused by something else, and to the others it does not apply. ``asked`` and ``refused`` are the same in ``unit``.
    ``not_judged`` of the ``of`` were let through because more counters lived at once than a replay holds.
    ``refused_subjects`` counts all subjects, up to 50,000; ``subjects`` are the 100 that were refused most.
    """

    decisions: int
    refused_already: int
    of: int
    would_refuse: int
    not_judged: int
    unit: str
    asked: int
    refused: int
    refused_subjects: int
    subjects: list[RefusedSubject]
    hours: list[ReplayHour]
    first_refused_us: int | None
    last_refused_us: int | None


class ReplayJob(msgspec.Struct, frozen=True, kw_only=True):
    """A replay that a tenant asked for.

    ``policy`` is replayed as it stands here; its id is empty where it is no policy of the tenant's. Decisions from
    ``covered_from_us`` to ``covered_to_us`` were looked at: less than the tenant asked for, where less is kept or the end was
    not reached. ``position_us`` is how far it came. ``only_counted`` says by code of how many decisions the ledger has the
    number and nothing else. ``error`` is why it failed.
    """

    id: str
    tenant_id: str
    status: Literal["running", "done", "failed", "cancelled"]
    policy: Policy
    from_us: int
    to_us: int
    covered_from_us: int
    covered_to_us: int
    warm_from_us: int
    position_us: int
    only_counted: dict[str, int] = {}
    report: ReplayReport | None = None
    error: str | None = None
    created_at_us: int
    updated_at_us: int

    @property
    def is_complete(self) -> bool:
        """Whether every decision that was made in the period until now took part."""
        as_asked = self.covered_from_us == self.from_us and self.covered_to_us == min(
            self.to_us, self.created_at_us + 1
        )
        return self.report is not None and as_asked and not self.only_counted and not self.report.not_judged

    @property
    def progress(self) -> float:
        """How much of the period was looked at, 0 to 1."""
        if self.status == "done":
            return 1.0
        whole_us = self.covered_to_us - self.warm_from_us
        return round(min(1.0, max(0, self.position_us - self.warm_from_us) / whole_us), 3) if whole_us > 0 else 0.0


class ReplayTotals:
    """What is counted of a replay."""

    def __init__(self) -> None:
        self.refused_already = 0
        self._of = self._would_refuse = self._not_judged = self._asked = self._refused = 0
        self._first_us: int | None = None
        self._last_us: int | None = None
        self._hour = ReplayHour(-HOUR_US)
        self._hours: dict[int, ReplayHour] = {}
        self._subjects: dict[str, list[int]] = {}  # by counter's subject: times, first, last

    def add(self, counter: Counter, cost: int, at_us: int, admitted: bool | None) -> None:
        """Counts one decision of the period; ``admitted`` is ``None`` where there was no room to tell."""
        hour = self._hour
        if not hour.at_us <= at_us < hour.at_us + HOUR_US:
            begins_us = at_us - at_us % HOUR_US
            hour = self._hour = self._hours.setdefault(begins_us, ReplayHour(begins_us))
        self._of += 1
        self._asked += cost
        hour.of += 1
        if admitted:
            return
        if admitted is None:
            self._not_judged += 1
            return
        self._would_refuse += 1
        self._refused += cost
        hour.would_refuse += 1
        if self._first_us is None:
            self._first_us = at_us
        self._last_us = at_us
        subject = subject_text(counter.key)
        noted = self._subjects.get(subject)
        if noted is not None:
            noted[0] += 1
            noted[2] = at_us
        elif len(self._subjects) < MOST_REFUSED_SUBJECTS:
            self._subjects[subject] = [1, at_us, at_us]

    def report(self, decisions: int, unit: str) -> ReplayReport:
        """What was counted, of ``decisions`` in all."""
        most = heapq.nsmallest(MOST_SUBJECTS, self._subjects.items(), key=lambda item: (-item[1][0], item[0]))
        return ReplayReport(
            decisions=decisions,
            refused_already=self.refused_already,
            of=self._of,
            would_refuse=self._would_refuse,
            not_judged=self._not_judged,
            unit=unit,
            asked=self._asked,
            refused=self._refused,
            refused_subjects=len(self._subjects),
            subjects=[RefusedSubject(subject_of(text), *noted) for text, noted in most],
            hours=[self._hours[at_us] for at_us in sorted(self._hours)],
            first_refused_us=self._first_us,
            last_refused_us=self._last_us,
        )


def missing_detail(counted: Mapping[str, int], seen: Mapping[str, int]) -> dict[str, int]:
    """By code: how many decisions the ledger counted of which no detail was kept, hence that were not replayed."""
    return {code: count - seen.get(code, 0) for code, count in sorted(counted.items()) if count > seen.get(code, 0)}
