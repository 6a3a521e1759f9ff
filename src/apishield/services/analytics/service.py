"""The sums' side of analytics: what every node answers from the ledger's rollups."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from apishield.analytics.periods import Horizon, kept_step, step_for
from apishield.analytics.steps import Step
from apishield.core.ports import Clock
from apishield.core.records import Actor
from apishield.services.analytics.breakdowns import Breakdown, Kind, Order, break_down
from apishield.services.analytics.export import Row, Subject, Table, pages, table_of
from apishield.services.analytics.freshness import FRESH_WITHIN_SECONDS, Freshness, as_it_is
from apishield.services.analytics.places import Places
from apishield.services.analytics.questions import Filters, Question, ask
from apishield.services.analytics.summaries import Summary, summarise
from apishield.services.analytics.timeseries import GroupBy, Timeseries, series_over_time
from apishield.services.base import tenant_of
from apishield.stores.sql.analytics.names import CustomerName, KeyName, NameReader
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.database import Database

EXPORTS_OF_A_TENANT: Final = 3
EXPORTS_OF_A_NODE: Final = 20
EXPORTS_RESERVED: Final = 5  # of them, for tenants that have none under way


class AnalyticsService:
    """Answers questions about a tenant's traffic. Every answer is of one moment of the database."""

    def __init__(self, database: Database, clock: Clock, fresh: Freshness = as_it_is) -> None:
        self._database = database
        self._clock = clock
        self._fresh = fresh
        self.exports = Places(
            "exports",
            of_tenant=EXPORTS_OF_A_TENANT,
            of_all=EXPORTS_OF_A_NODE,
            reserved=EXPORTS_RESERVED,
            retry_after_seconds=10,
        )

    def question(
        self, actor: Actor, filters: Filters, *, from_: str | None, to: str | None, time_zone: str = "UTC"
    ) -> Question:
        """What ``actor`` asks. Raises 422 that names every parameter that can't be used."""
        return ask(tenant_of(actor), filters, now_us=self._clock(), from_=from_, to=to, time_zone=time_zone)

    async def summary(self, question: Question) -> Summary:
        """The period and the one before it."""
        # Also of the past: where nobody takes events, nobody may have taken any for long.
        fresh = await self._fresh(FRESH_WITHIN_SECONDS)
        async with self._view(question) as reader:
            return await summarise(reader, question, fresh=fresh)

    async def timeseries(
        self, question: Question, step: Step | None, group_by: GroupBy | None, *, limit: int
    ) -> Timeseries:
        """Figures by step; without one, the shortest that makes at most 1,000 points.

        Where the period begins among buckets that are gone, ``step`` is at least as long as those that are kept there.
        """
        horizon, period = Horizon.at(question.now_us), question.period
        chosen = step_for(*period, horizon) if step is None else kept_step(step, period.from_us, horizon)
        async with self._reader(question) as reader:
            return await series_over_time(reader, question, chosen, group_by, limit=limit)

    async def breakdown(self, question: Question, kind: Kind, *, order: Order, limit: int) -> Breakdown:
        """The first of a kind, all, and the rest."""
        async with self._reader(question) as reader:
            return await break_down(reader, question, kind, order=order, limit=limit)

    async def key_names(self, question: Question, ids: Sequence[str]) -> Mapping[str, KeyName]:
        """What keys are called."""
        async with self._database.read() as tx:
            return await NameReader(tx.connection, question.tenant_id).keys(ids)

    async def customer_names(self, question: Question, ids: Sequence[str]) -> Mapping[str, CustomerName]:
        """What customers are called."""
        async with self._database.read() as tx:
            return await NameReader(tx.connection, question.tenant_id).customers(ids)

    async def export(self, question: Question, subject: Subject | None, *, by_day: bool) -> Table:
        """What an export will look like; ``export_pages`` has its rows."""
        await self._fresh(FRESH_WITHIN_SECONDS)
        return await table_of(self._database, question, subject, by_day=by_day)

    def export_pages(self, table: Table) -> AsyncGenerator[list[Row], None]:
        """The rows of an export, page by page."""
        return pages(self._database, table)

    @asynccontextmanager
    async def _reader(self, question: Question) -> AsyncIterator[RollupReader]:
        if question.period.to_us >= question.now_us:
            await self._fresh(FRESH_WITHIN_SECONDS)
        async with self._view(question) as reader:
            yield reader

    @asynccontextmanager
    async def _view(self, question: Question) -> AsyncIterator[RollupReader]:
        async with self._database.read() as tx:
            yield RollupReader(tx.connection, question.tenant_id, question.environment)
