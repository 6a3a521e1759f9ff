"""What policies in shadow would have refused: noted on the hot path in plain dictionaries, written behind with all use.

Owns: counts by policy and day, the subjects that would have been refused most. Does not own: deciding (``engine``), when
it is written (``usage``), how long it is kept (``bootstrap``).

Only checks that were let through are counted, and no peeks: so a count says how many refusals enforcing would *add*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from apishield.core.counter_keys import subject_of, subject_text
from apishield.core.model import SECOND_US, Counter, Mode
from apishield.core.outcome import Outcome
from apishield.core.ports import ShadowDay, ShadowSubject
from apishield.stores.sql.unit_of_work import UnitOfWork

MOST_SUBJECTS = 100
"""So many subjects are shown of a policy; of each day somewhat more are kept, so that a late riser can come up."""

DAYS_KEPT = 90
SUBJECT_DAYS_KEPT = 7  # addresses of people are among them

_SUBJECTS_NOTED = 1_000
_DAY_US = 86_400 * SECOND_US

_Place = tuple[str, str, str]  # tenant, policy, day


class RefusedSubject(msgspec.Struct, frozen=True):
    """Who would have been refused, and how often at least."""

    subject: dict[str, str]
    would_refuse: int


class ShadowReport(msgspec.Struct, frozen=True):
    """What a policy would have done since ``since_us`` (``None``: nothing was counted yet), by day, and to whom most."""

    policy_id: str
    since_us: int | None
    would_refuse: int
    admitted: int
    days: list[ShadowDay]
    subjects: list[RefusedSubject]


class ShadowNotes:
    """Counts of one process that are not written yet. ``would_refuse`` and ``admitted`` are its totals, for the metrics."""

    def __init__(self) -> None:
        self.would_refuse = 0
        self.admitted = 0
        self._days: dict[_Place, list[int]] = {}  # since, would refuse, admitted
        self._subjects: dict[_Place, dict[str, int]] = {}
        self._day_starts_us = -_DAY_US
        self._day = ""

    def __bool__(self) -> bool:
        return bool(self._days)

    def note(self, tenant_id: str, counters: Sequence[Counter], outcomes: Sequence[Outcome], now_us: int) -> None:
        """Notes what the limits in shadow say of a check that was let through."""
        for counter, outcome in zip(counters, outcomes, strict=True):
            if counter.limit.mode is not Mode.SHADOW:
                continue
            if outcome.admitted:
                self.admitted += 1
            else:
                self.would_refuse += 1
            if counter.policy_id is not None:
                self._note(tenant_id, counter.policy_id, counter.key, outcome.admitted, now_us)

    def _note(self, tenant_id: str, policy_id: str, counter_key: str, admitted: bool, now_us: int) -> None:
        if not self._day_starts_us <= now_us < self._day_starts_us + _DAY_US:
            self._day_starts_us = now_us // _DAY_US * _DAY_US
            self._day = _day(now_us)
        place = (tenant_id, policy_id, self._day)
        counts = self._days.get(place)
        if counts is None:
            counts = self._days[place] = [now_us, 0, 0]
        if admitted:
            counts[2] += 1
            return
        counts[1] += 1
        subjects = self._subjects.setdefault(place, {})
        text = subject_text(counter_key)
        if text in subjects or len(subjects) < _SUBJECTS_NOTED:
            subjects[text] = subjects.get(text, 0) + 1

    def take(self) -> ShadowNotes:
        """All that is noted, to be written; here begins a new page."""
        taken = ShadowNotes()
        taken._days, self._days = self._days, {}
        taken._subjects, self._subjects = self._subjects, {}
        return taken

    def put_back(self, taken: ShadowNotes) -> None:
        """Notes again what could not be written."""
        for place, (since_us, would_refuse, admitted) in taken._days.items():
            counts = self._days.setdefault(place, [since_us, 0, 0])
            counts[0] = min(counts[0], since_us)
            counts[1] += would_refuse
            counts[2] += admitted
        for place, subjects in taken._subjects.items():
            merged = self._subjects.setdefault(place, {})
            for text, times in subjects.items():
                if text in merged or len(merged) < _SUBJECTS_NOTED:
                    merged[text] = merged.get(text, 0) + times

    async def write(self, tx: UnitOfWork) -> None:
        """Adds what is noted to what the database has."""
        await tx.shadow.add(
            [ShadowDay(*place, *counts) for place, counts in self._days.items()],
            [
                ShadowSubject(*place, text, times)
                for place, subjects in self._subjects.items()
                for text, times in subjects.items()
            ],
        )


async def forget_old(tx: UnitOfWork, now_us: int) -> None:
    """Forgets what nobody asks about any more, and sooner who it was."""
    day, subjects_day = (_day(now_us - days * _DAY_US) for days in (DAYS_KEPT, SUBJECT_DAYS_KEPT))
    await tx.shadow.forget_before(day=day, subjects_day=subjects_day)


def _day(now_us: int) -> str:
    return datetime.fromtimestamp(now_us // SECOND_US, UTC).strftime("%Y-%m-%d")


async def read_report(tx: UnitOfWork, tenant_id: str, policy_id: str) -> ShadowReport:
    """What is written of a policy."""
    days = await tx.shadow.days(tenant_id, policy_id)
    subjects: Mapping[str, int] = await tx.shadow.subjects(tenant_id, policy_id, at_most=MOST_SUBJECTS)
    return ShadowReport(
        policy_id,
        min((day.since_us for day in days), default=None),
        sum(day.would_refuse for day in days),
        sum(day.admitted for day in days),
        days,
        [RefusedSubject(subject_of(text), times) for text, times in subjects.items()],
    )
