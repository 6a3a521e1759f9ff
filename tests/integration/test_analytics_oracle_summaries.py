"""Summaries and breakdowns are what counting the events one by one gives. On both databases."""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete

from apishield.analytics.periods import Segment
from apishield.analytics.rollup import Dims
from apishield.analytics.steps import DAY_S, SECOND_US, Step, ceil
from apishield.core.records import Environment
from apishield.services.analytics.breakdowns import KINDS, Kind
from apishield.services.analytics.questions import Filters, ask
from apishield.services.analytics.timeseries import GROUPINGS
from apishield.stores.sql.analytics import rollups, sources
from apishield.stores.sql.analytics.plan import Plan, Selection
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.tables import rollup_units
from tests.support.analytics_oracle import Traffic, counts, grouped, hold, questions, traffic

__all__ = ["traffic"]


async def test_a_summary_is_what_counting_gives(traffic: Traffic) -> None:
    counted = 0
    for _, question in questions(traffic):
        found = (await traffic.analytics.summary(question)).now
        status = question.selection.status
        events = list(traffic.of(question))
        hold(found.figures, traffic.figures(events, status), question)
        refused = {
            str(code): traffic.figures(some, status)[0].requests
            for (code,), some in grouped(events, ["code"]).items()
            if code != "ok"
        }
        assert found.refused_by_code == {code: count for code, count in refused.items() if count}, question
        by_key = grouped(events, ["key_id"]).items()
        active = [key for (key,), some in by_key if key and traffic.figures(some, status)[0].requests]
        assert found.active_keys == len(active), question
        counted += found.figures.sums.requests
    assert counted > 1_000  # the questions are not all about nothing


async def test_keys_are_looked_for_one_by_one_where_most_are_there_each_day(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0
    for _, question in questions(traffic):
        everything = msgspec.structs.replace(question, selection=Selection())
        read = (await traffic.analytics.summary(everything)).now.active_keys
        with monkeypatch.context() as patched:
            patched.setattr(rollups, "_DENSE", 0)
            patched.setattr(rollups, "_MANY_DAYS_S", 0)
            patched.setattr(rollups.RollupReader, "_keys_there", (there := Watched()).bound())
            assert (await traffic.analytics.summary(everything)).now.active_keys == read, question
        looked += there.calls
    assert looked > 10


class Watched:
    """``_keys_there``, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def bound(self) -> Any:
        whole = rollups.RollupReader._keys_there

        async def counted(*arguments: Any) -> int:
            self.calls += 1
            return await whole(*arguments)

        return counted


async def test_a_breakdown_is_in_order_and_with_its_rest_the_total(traffic: Traffic) -> None:
    for rng, question in questions(traffic):
        kind: Kind = rng.choice(list(KINDS))
        limit = rng.choice((1, 2, 100))
        found = await traffic.analytics.breakdown(question, kind, order="requests", limit=limit)
        status = question.selection.status
        events = list(traffic.of(question))
        expected = {group: traffic.figures(some, status) for group, some in grouped(events, KINDS[kind]).items()}
        there = {group: figures for group, figures in expected.items() if figures[0].requests}
        assert len(found.groups) == min(limit, len(there)), question
        for group, figures in found.groups:
            hold(figures, there[group], question)
        shown = [figures.sums.requests for _, figures in found.groups]
        assert shown == sorted((figures[0].requests for figures in there.values()), reverse=True)[:limit], question
        assert counts(found.total) == counts(traffic.figures(events, status)[0]), question
        assert found.total.requests - sum(shown) == counts(found.other)[0], question


async def test_endpoints_come_in_the_order_of_their_errors_or_their_p95(traffic: Traffic) -> None:
    for _, question in questions(traffic, status=False):
        events = list(traffic.of(question))
        expected = {group: traffic.figures(some, None) for group, some in grouped(events, KINDS["endpoint"]).items()}
        failing = await traffic.analytics.breakdown(question, "endpoint", order="error_rate", limit=100)
        rates = [figures.sums.error_rate for _, figures in failing.groups]
        assert rates == sorted(rates, key=lambda rate: -1 if rate is None else rate, reverse=True), question
        assert {group: figures.sums.error_rate for group, figures in failing.groups} == {
            group: sums.error_rate for group, (sums, _, _) in expected.items()
        }, question
        slow = await traffic.analytics.breakdown(question, "endpoint", order="p95", limit=3)
        p95 = [figures.latency.p95 or -1 for _, figures in slow.groups]
        assert p95 == sorted(p95, reverse=True), question
        for group, figures in slow.groups:
            hold(figures, expected[group], question)


@pytest.mark.parametrize("step", Step)
async def test_units_are_found_whatever_step_alone_has_any(traffic: Traffic, database: Database, step: Step) -> None:
    question = ask("ten_a", Filters(), now_us=traffic.now_us, from_="now-130d")
    _, units, _ = traffic.figures(list(traffic.of(question)), None)
    async with database.transaction() as tx:
        await tx.connection.execute(delete(rollup_units).where(rollup_units.c.step != step.value))
    end_s = ceil(traffic.now_us // SECOND_US, Step.DAY)
    plan = Plan(Dims.TENANT, [Segment(step, end_s - 131 * DAY_S, end_s)])
    async with database.read() as tx:
        found = await RollupReader(tx.connection, "ten_a", Environment.LIVE).units(plan)
    assert {unit: cost for _, unit, cost in found} == units != {}


SOUGHT = {  # how rows of few series are found: one by one, among those between them, with those of all others
    "one by one": ("_MOST_BETWEEN", 0),
    "between": ("_MOST_BETWEEN", 1_000_000),
    "by bucket": ("_MOST_SEEKS", 0),
    "with all": ("_MOST_SOUGHT_SERIES", 0),
}


async def test_answers_are_the_same_however_rows_are_found(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, list[Any]] = {}
    for way, (name, value) in SOUGHT.items():
        with monkeypatch.context() as patched:
            patched.setattr(sources, name, value)
            answers[way] = [
                await answer
                for rng, question in islice(questions(traffic), 12)
                for answer in (
                    traffic.analytics.summary(question),
                    traffic.analytics.breakdown(question, rng.choice(list(KINDS)), order="p95", limit=2),
                    traffic.analytics.timeseries(question, None, rng.choice(list(GROUPINGS)), limit=2),
                )
            ]
    first, *others = answers.values()
    assert all(other == first for other in others)
