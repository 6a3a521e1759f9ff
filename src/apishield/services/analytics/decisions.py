"""Single decisions: by their id, for the tenant and for whoever was refused; and the latest of them, page by page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from apishield.analytics.endpoint_names import collapse
from apishield.analytics.rollup import OTHER
from apishield.core.decision_ids import DecisionIds, DecisionRef
from apishield.core.events import HELD, PEEK, TEST, DecisionEvent, EventRef
from apishield.core.ports import Clock
from apishield.core.records import Actor, Environment
from apishield.errors import PROBLEMS, ProblemError
from apishield.services.analytics.freshness import FRESH_WITHIN_SECONDS, Freshness, as_it_is
from apishield.services.analytics.places import Queues
from apishield.services.analytics.questions import Question
from apishield.services.base import tenant_of
from apishield.services.checks import Faults
from apishield.services.recorder import OTHER_METHOD
from apishield.stores.sql.analytics.plan import Selection
from apishield.stores.sql.ledger.archive import DecisionArchive
from apishield.stores.sql.ledger.stored import StoredDecision
from apishield.stores.sql.pagination import PageRequest, invalid_cursor, make_cursor, read_cursor

MOST_SCANNED: Final = 20_000
"""So many decisions are looked at for one page; where fewer fit than were asked for, the page says how far it came."""

MOST_SAMPLED: Final = 5_000
"""So many decisions are looked at for a moment of the live view."""

SCANS_AT_ONCE: Final = 2
SCANS_WAITING: Final = 14
"""Of a tenant, in a process; who comes then is told to come again."""

_LIST: Final = "requests"
_JUST_NOW_US: Final = 10_000_000
_LATEST: Final = 2**63 - 1
_FAR_AHEAD_US: Final = 86_400_000_000

Place = tuple[int, int, int]  # when, in which spool, which one

Take = Callable[[Sequence[StoredDecision]], bool]
"""Takes some decisions; says whether there is a use for more."""


class Shown(msgspec.Struct, frozen=True):
    """A decision under its id."""

    decision_id: str
    stored: StoredDecision


class Recent(msgspec.Struct, frozen=True):
    """Decisions, newest first. ``scanned_to_us``: all that are newer, and fit, are in this page or in those before it."""

    items: Sequence[Shown]
    next_cursor: str | None
    scanned_to_us: int


class Narrowed(msgspec.Struct, frozen=True):
    """What single decisions can be asked for beyond a question: an address, and one status instead of a class."""

    address: str | None = None
    status: int | None = None


class DecisionService:
    """Reads decisions back from the archive."""

    def __init__(self, archive: DecisionArchive, ids: DecisionIds, clock: Clock, fresh: Freshness = as_it_is) -> None:
        self._archive = archive
        self._ids = ids
        self._clock = clock
        self._fresh = fresh
        self._scans = Queues("looks at single decisions", at_once=SCANS_AT_ONCE, waiting=SCANS_WAITING)

    async def find(self, actor: Actor, decision_id: str) -> Shown:
        """The tenant's decision. Raises 404 for one that is another's, was never made, or is not kept any more."""
        tenant_id = tenant_of(actor)
        ref = self._ids.read(decision_id, tenant_id)
        if ref is None:
            raise unknown_decision(decision_id)
        stored = await self._archive.find(tenant_id, EventRef(ref.spool, ref.sequence), ref.at_ms * 1000)
        if stored is None:  # it may have been made this very second
            await self._fresh(FRESH_WITHIN_SECONDS)
            stored = await self._archive.find(tenant_id, EventRef(ref.spool, ref.sequence), ref.at_ms * 1000)
        if stored is None:
            raise ProblemError(
                "not_found",
                f"The decision {decision_id[:64]!a} is not kept: it is too old, was made this second, or was one of a "
                "flood of which only the number is kept.",
            )
        return Shown(decision_id, stored)

    async def find_public(self, decision_id: str) -> Shown:
        """Anybody's decision, for whoever holds its id. Raises 404, the same whatever the reason."""
        ref = self._ids.read_unproven(decision_id)
        if ref is None:
            raise unknown_decision(decision_id)
        stored = await self._find_public(ref, decision_id)
        if stored is None and ref.spool == self._ids.spool and self._clock() - ref.at_ms * 1000 < _JUST_NOW_US:
            await self._fresh(FRESH_WITHIN_SECONDS)  # whoever was refused follows the link at once
            stored = await self._find_public(ref, decision_id)
        if stored is None:
            raise ProblemError(
                "not_found",
                f"There is no decision {decision_id[:64]!a}, or it is not kept. One that was made this second may take two "
                "more to be found.",
            )
        return Shown(decision_id, stored)

    async def _find_public(self, ref: DecisionRef, decision_id: str) -> StoredDecision | None:
        return await self._archive.find_public(
            EventRef(ref.spool, ref.sequence),
            ref.at_ms * 1000,
            lambda tenant_id: self._ids.read(decision_id, tenant_id) is not None,
        )

    @property
    def kept_from_us(self) -> int:
        """When the oldest decision may have been made that can still be found."""
        return self._archive.kept_from_us

    def shown(self, stored: StoredDecision) -> Shown:
        """``stored`` under its id."""
        event = stored.event
        ref = DecisionRef(event.at_us // 1000, stored.spool, event.sequence, bool(event.flags & HELD))
        return Shown(self._ids.write(event.tenant_id, ref), stored)

    async def recent(self, question: Question, narrowed: Narrowed, page: PageRequest) -> Recent:
        """The tenant's decisions of the period that fit, newest first; questions at cost 0 are none.

        Raises 422 for what only sums know, 429 where the tenant has too many such lists under way.
        """
        refuse_other(question.selection)
        if question.period.to_us >= question.now_us:
            await self._fresh(FRESH_WITHIN_SECONDS)
        looking = _Looking(question, narrowed, page)
        await self.walk(question, looking.take, before_us=looking.last[0] + 1)
        items = [self.shown(stored) for stored in looking.found]
        if looking.has_more:
            return Recent(items, _cursor(looking.last), looking.last[0])
        return Recent(items, None, question.period.from_us)

    async def walk(self, question: Question, take: Take, *, before_us: int = _LATEST) -> None:
        """Hands the tenant's decisions of the period to ``take``, newest first, until it has enough.

        From ``before_us`` on none is. Raises 429 where the tenant has too many such looks under way.
        """
        from_us, to_us = question.period
        end_us = min(to_us, before_us)
        if from_us >= end_us:
            return
        async with (
            self._scans.admitted(question.tenant_id),
            aclosing(self._archive.scan(question.tenant_id, from_us, end_us, newest_first=True)) as lists,
        ):
            async for some in lists:
                async with self._archive.turns.turn():
                    goes_on = take(some)
                if not goes_on:
                    return

    async def latest(self, question: Question, since_us: int, most: int) -> Sequence[Shown]:
        """Up to ``most`` decisions that fit and were made at ``since_us`` or later: the newest of them, newest first."""
        items: list[Shown] = []
        scanned = 0
        end_us = question.now_us + _FAR_AHEAD_US
        async with aclosing(self._archive.scan(question.tenant_id, since_us, end_us, newest_first=True)) as lists:
            async for some in lists:
                async with self._archive.turns.turn():
                    items += [self.shown(stored) for stored in some if fits_question(stored, question, Narrowed())][
                        :most
                    ]
                scanned += len(some)
                if len(items) >= most or scanned >= MOST_SAMPLED:
                    break
        return items[:most]


class _Looking:
    """A page that is being filled: all was looked at up to the place ``last``, and ``has_more`` where it ends there."""

    def __init__(self, question: Question, narrowed: Narrowed, page: PageRequest) -> None:
        self.question = question
        self.found: list[StoredDecision] = []
        self.last: Place = _place_in(page.cursor) if page.cursor is not None else (_LATEST, 0, 0)
        self.has_more = False
        self._narrowed = narrowed
        self._limit = page.limit
        self._scanned = 0

    def take(self, some: Sequence[StoredDecision]) -> bool:
        """Takes what fits, newest first. Returns whether there is a use for more."""
        before = self.last
        for stored in some:
            place = _place(stored)
            if place >= before:
                continue
            if fits_question(stored, self.question, self._narrowed):
                if len(self.found) == self._limit:
                    self.has_more = True
                    return False
                self.found.append(stored)
            self.last = place
            self._scanned += 1
            if self._scanned == MOST_SCANNED:
                self.has_more = True
                return False
        return True


def fits_question(stored: StoredDecision, question: Question, narrowed: Narrowed) -> bool:
    """Whether a decision is one of those that are asked for; the same that the sums count, but by its own status."""
    event = stored.event
    if event.flags & PEEK or bool(event.flags & TEST) is not (question.environment is Environment.TEST):
        return False
    if narrowed.address is not None and event.address != narrowed.address:
        return False
    status = status_of(stored)
    if narrowed.status is not None and status != narrowed.status:
        return False
    return _fits(event, status, question.selection)


def _fits(event: DecisionEvent, status: int | None, selection: Selection) -> bool:
    return (
        (selection.codes is None or event.code in selection.codes)
        and (selection.key_id is None or event.key_id == selection.key_id)
        and (selection.customer_id is None or event.customer_id == selection.customer_id)
        and (selection.endpoint is None or endpoint_of(event) == selection.endpoint)
        and (selection.method is None or method_of(event) == selection.method)
        and (selection.country is None or event.country == selection.country)
        and (selection.status is None or (status is not None and status // 100 == selection.status))
    )


def endpoint_of(event: DecisionEvent) -> str:
    """The endpoint that the sums count the decision under, but for those that share one series; ``""`` where none was told."""
    return event.endpoint if event.endpoint is not None else collapse(event.path)


def method_of(event: DecisionEvent) -> str | None:
    """The method that the sums count the decision under."""
    return OTHER if event.method == OTHER_METHOD else event.method


def refuse_other(selection: Selection) -> None:
    """What the sums put under ``OTHER`` has names of its own here: nothing would be found, in however many pages."""
    faults = Faults()
    for name in ("endpoint", "key_id", "customer_id"):
        if getattr(selection, name) == OTHER:
            faults.add(
                f"?{name}", f"{OTHER} stands for many in sums; single decisions have their own names: leave it away"
            )
    faults.raise_any()


def status_of(stored: StoredDecision) -> int | None:
    """What the caller got: the API's answer, where it was reported, or the refusal's own status."""
    if stored.event.code == "ok":
        return stored.result.status if stored.result is not None else None
    problem = PROBLEMS.get(stored.event.code)
    return problem.status if problem is not None else None


def unknown_decision(decision_id: str) -> ProblemError:
    """404, the same for another tenant's decision as for one that never was."""
    return ProblemError("not_found", f"There is no decision {decision_id[:64]!a}.")


def _place(stored: StoredDecision) -> Place:
    return stored.event.at_us, stored.spool, stored.event.sequence


def _cursor(place: Place) -> str:
    return make_cursor(_LIST, ".".join(map(str, place)))


def _place_in(cursor: str) -> Place:
    parts = read_cursor(_LIST, cursor).split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise invalid_cursor()
    at_us, spool, sequence = map(int, parts)
    if at_us >= _LATEST:
        raise invalid_cursor()
    return at_us, spool, sequence
