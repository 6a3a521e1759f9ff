"""The busiest addresses: from the sums of whole hours, or, for what those can't tell, from the decisions themselves.

Owns: which of the two answers a question, and how much is looked at for it. Does not own: how decisions are walked
(``decisions``), how hours are summed (``services.ledger``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import nsmallest
from typing import Final

import msgspec

from apishield.analytics.periods import Period
from apishield.analytics.rollup import ADMITTED
from apishield.analytics.steps import HOUR_S, SECOND_US, Step, ceil, floor
from apishield.core.abuse_detector.addresses import parse_address
from apishield.services.analytics.breakdowns import sum_of
from apishield.services.analytics.decisions import DecisionService, Narrowed, fits_question, refuse_other
from apishield.services.analytics.freshness import FRESH_WITHIN_SECONDS, Freshness, as_it_is
from apishield.services.analytics.planner import Covered, planned
from apishield.services.analytics.questions import Question
from apishield.services.aside import aside
from apishield.stores.sql.analytics.addresses import AddressCounts, AddressReader
from apishield.stores.sql.analytics.plan import Selection
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.stored import StoredDecision

MOST_COUNTED: Final = 100_000
"""So many decisions are looked at for a question with filters: about a second, in turns of milliseconds."""

FEW: Final = 20_000
SHORT_US: Final = 6 * HOUR_S * SECOND_US
"""Of a period that is no longer, and has no more decisions, they are counted rather than hours that reach out of it."""


class Addresses(msgspec.Struct, frozen=True):
    """The busiest addresses, and all together. ``complete``: nothing is left out at the beginning of what was asked for."""

    covered: Covered
    addresses: Sequence[AddressCounts]
    total: AddressCounts
    complete: bool


class AddressService:
    """Tells which addresses a tenant's checks came from."""

    def __init__(self, database: Database, decisions: DecisionService, fresh: Freshness = as_it_is) -> None:
        self._database = database
        self._decisions = decisions
        self._fresh = fresh

    async def busiest(self, question: Question, *, limit: int) -> Addresses:
        """The ``limit`` addresses with most checks.

        Raises 422 for a filter that only sums know, 429 where too many look at the tenant's decisions.
        """
        refuse_other(question.selection)
        if question.period.to_us >= question.now_us:
            await self._fresh(FRESH_WITHIN_SECONDS)
        if question.selection != Selection():
            return await self._of_decisions(question, limit)
        if await self._are_few(question):
            found = await self._of_decisions(question, limit)
            if found.complete:
                return found
        return await self._of_hours(question, limit)

    async def _are_few(self, question: Question) -> bool:
        """Whether hours would tell of more than was asked for, and the decisions are there and soon counted."""
        from_us, to_us = question.period
        is_whole = all(edge_us % (HOUR_S * SECOND_US) == 0 for edge_us in (from_us, to_us) if edge_us < question.now_us)
        if is_whole or to_us - from_us > SHORT_US or from_us < self._decisions.kept_from_us:
            return False
        plan, _ = planned(question)
        async with self._database.read() as work:
            reader = RollupReader(work.connection, question.tenant_id, question.environment)
            return sum_of(sums for _, sums in await reader.sums(plan)).requests <= FEW

    async def _of_hours(self, question: Question, limit: int) -> Addresses:
        """From the sums of all hours that the period touches."""
        asked_s = floor(question.period.from_us // SECOND_US, Step.HOUR)
        to_s = ceil(question.period.to_us // SECOND_US, Step.HOUR)
        from_s = min(to_s, max(asked_s, ceil(-(-self._decisions.kept_from_us // SECOND_US), Step.HOUR)))
        async with self._database.read() as work:
            reader = AddressReader(work.connection, question.tenant_id, question.environment)
            top, total = await reader.top(from_s, to_s, limit), await reader.total(from_s, to_s)
        period = Period(from_s * SECOND_US, to_s * SECOND_US)
        return Addresses(Covered(period, Step.HOUR), top, total, complete=from_s == asked_s)

    async def _of_decisions(self, question: Question, limit: int) -> Addresses:
        """From the period's decisions that fit."""
        from_us, to_us = question.period
        tally = _Tally(question)
        kept_from_us = min(to_us, max(from_us, self._decisions.kept_from_us))
        await self._decisions.walk(question, tally.take)
        begins_us = tally.reached_us if tally.had_enough else kept_from_us
        return Addresses(
            Covered(Period(begins_us, to_us), Step.MINUTE),
            await aside(len(tally.requests), lambda: tally.busiest(limit)),
            AddressCounts("", tally.requests.total(), tally.refused.total()),
            complete=begins_us == from_us,
        )


class _Tally:
    """Decisions by address. ``had_enough``: it took none that was made before ``reached_us``, though there are some."""

    def __init__(self, question: Question) -> None:
        self.requests = Counter[str]()
        self.refused = Counter[str]()
        self.reached_us = question.period.to_us
        self.had_enough = False
        self._question = question
        self._taken = 0

    def take(self, some: Sequence[StoredDecision]) -> bool:
        """Counts those that fit, newest first; of one moment all or none. Returns whether there is a use for more."""
        for stored in some:
            event = stored.event
            if self._taken >= MOST_COUNTED and event.at_us < self.reached_us:
                self.had_enough = True
                return False
            self._taken += 1
            self.reached_us = event.at_us
            if event.address is not None and fits_question(stored, self._question, Narrowed()):
                address = _counted(event.address)
                self.requests[address] += 1
                self.refused[address] += event.code != ADMITTED
        return True

    def busiest(self, limit: int) -> list[AddressCounts]:
        """The first ``limit``; equal ones by their names."""
        first = nsmallest(limit, self.requests.items(), key=lambda item: (-item[1], item[0]))
        return [AddressCounts(address, count, self.refused[address]) for address, count in first]


def _counted(address: str) -> str:
    """What sums count an address by: of version 6 its network of 64 bits."""
    parsed = parse_address(address) if ":" in address else None
    return address if parsed is None else parsed.counted
