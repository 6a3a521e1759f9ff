"""Days of zones that are hours off, or half hours, and days on which clocks change: to the minute what counting gives."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest
from sqlalchemy import text

from apishield.analytics.periods import steps
from apishield.analytics.steps import SECOND_US, Step
from apishield.core.events import CATALOGUED, PEEK, DecisionEvent
from apishield.services.analytics.questions import Filters, Question, ask
from apishield.services.analytics.service import AnalyticsService
from apishield.services.analytics.timeseries import GROUPINGS, GroupBy
from apishield.services.ledger import LedgerService
from apishield.stores.sql.analytics.plan import Group, Sums
from apishield.stores.sql.database import Database
from tests.support.analytics_oracle import (
    HOUR_US,
    LABELS,
    Traffic,
    endpoint,
    grouped,
    hold,
    make_decision,
    make_result,
    step_of,
)
from tests.support.clock import ManualClock
from tests.support.taking import Taking

DAYS = 6
ZONES = {  # and a noon (UTC) soon after its clocks have changed, where they do
    "Asia/Kolkata": "2026-11-20",
    "Asia/Kathmandu": "2026-11-20",
    "Europe/Berlin": "2026-10-28",
    "America/New_York": "2026-11-04",
    "Europe/London": "2026-03-31",  # from days that are those of UTC to days that are not
    "Australia/Lord_Howe": "2026-10-07",  # by half an hour
    "Pacific/Chatham": "2026-09-30",  # 12:45 to 13:45
}


def near_midnight(rng: random.Random, now_us: int, zone: ZoneInfo) -> int:
    """A moment at which events are counted right only where days are cut right, or any other."""
    from_us = now_us - DAYS * 24 * HOUR_US
    if rng.random() < 0.3:
        return from_us + rng.randrange(now_us - from_us)
    midnight_us = rng.choice(steps(from_us, now_us, Step.DAY, zone)) * SECOND_US
    away_us = rng.choice((2 * 60 * SECOND_US, HOUR_US, 8 * HOUR_US))
    return min(max(midnight_us + rng.randrange(-away_us, away_us), from_us), now_us - 1)


async def traffic_around_midnights(database: Database, clock: ManualClock, zone: str) -> Traffic:
    """Traffic of six days, in the ledger; most results are late."""
    rng = random.Random(zone)
    clock.now_us = int(datetime.fromisoformat(f"{ZONES[zone]}T12:00:00+00:00").timestamp()) * SECOND_US
    taking = Taking(LedgerService(database, clock))
    made = [make_decision(rng, sequence, clock.now_us) for sequence in range(1, 500)]
    decisions = [
        msgspec.structs.replace(
            event,
            at_us=near_midnight(rng, clock.now_us, ZoneInfo(zone)),
            flags=event.flags | CATALOGUED,  # so that strangers, too, count by endpoint
            endpoint=endpoint(event),
        )
        for event in made
    ]
    results = {
        event.sequence: make_result(rng, event, taking.spool)
        for event in decisions
        if event.code == "ok" and not event.flags & PEEK and rng.random() < 0.9
    }
    early = {sequence: result for sequence, result in results.items() if rng.random() < 0.2}
    await taking.take([*decisions, *early.values()])
    await taking.take([result for sequence, result in results.items() if sequence not in early])
    return Traffic(AnalyticsService(database, clock), decisions, results, clock.now_us)


def question_of(traffic: Traffic, zone: str, from_: str, **filters: str) -> Question:
    return ask("ten_a", Filters(**filters), now_us=traffic.now_us, from_=from_, time_zone=zone)  # type: ignore[arg-type]


CHARTS: tuple[tuple[str, dict[str, str], GroupBy | None, Step], ...] = (
    ("now-6d", {}, None, Step.DAY),
    ("now-6d", {}, "endpoint", Step.DAY),
    ("now-6d", {"status": "2xx"}, "country", Step.DAY),
    ("now-6d", {"key_id": "key_1"}, "outcome", Step.DAY),
    ("now-100h", {}, "key", Step.DAY),
    ("now-4567m", {}, None, Step.DAY),
    ("now-6d", {}, None, Step.HOUR),
    ("now-4567m", {}, "method", Step.HOUR),
)


@pytest.mark.parametrize("zone", ZONES)
async def test_every_event_counts_in_its_own_day_and_hour(database: Database, clock: ManualClock, zone: str) -> None:
    traffic = await traffic_around_midnights(database, clock, zone)
    for from_, filters, group_by, step in CHARTS:
        question = question_of(traffic, zone, from_, **filters)
        found = await traffic.analytics.timeseries(question, step, group_by, limit=20)
        columns = GROUPINGS[group_by] if group_by else ()
        expected: dict[tuple[Group, int], list[DecisionEvent]] = defaultdict(list)
        for event in traffic.of(question):
            start_s = step_of(event.at_us, step, zone)
            expected[tuple(LABELS[column](event) for column in columns), start_s].append(event)
        assert found.step is step
        assert sum(len(events) for events in expected.values()) > 10
        for line in found.lines:
            for start_s, figures in zip(found.starts_s, line.points, strict=True):
                events = expected.pop((line.group or (), start_s), [])
                hold(figures, traffic.figures(events, question.selection.status), question)
        left = [event for events in expected.values() for event in events]
        assert traffic.figures(left, question.selection.status)[0].requests == 0  # all are in the lines
    await assert_an_export_has_the_same_days(traffic, zone)


async def assert_an_export_has_the_same_days(traffic: Traffic, zone: str) -> None:
    question = question_of(traffic, zone, "now-6d")
    table = await traffic.analytics.export(question, "endpoint", by_day=True)
    found = {
        tuple(row.labels): (row.sums, dict(row.units))
        async for page in traffic.analytics.export_pages(table)
        for row in page
    }
    expected = {
        (*group, day): traffic.figures(events, None)[:2]
        for group, of_group in grouped(traffic.of(question), ("endpoint", "method")).items()
        for day, events in by_day(of_group, zone).items()
    }
    assert found == expected


def by_day(events: list[DecisionEvent], zone: str) -> dict[str, list[DecisionEvent]]:
    days: dict[str, list[DecisionEvent]] = defaultdict(list)
    for event in events:
        days[datetime.fromtimestamp(event.at_us // SECOND_US, ZoneInfo(zone)).date().isoformat()].append(event)
    return days


async def test_a_sum_too_large_to_grow_with_its_parts_leaves_none_of_it_never_less(
    database: Database, clock: ManualClock
) -> None:
    """Costs and bytes are what clients say: a day's row stops at 2⁶², as each of its hours does."""
    zone = "Asia/Kolkata"
    traffic = await traffic_around_midnights(database, clock, zone)
    question = question_of(traffic, zone, "now-6d")
    honest = await traffic.analytics.timeseries(question, Step.DAY, "endpoint", limit=20)
    async with database.transaction() as tx:
        for step in Step:
            await tx.connection.execute(text(f"UPDATE rollup_{step} SET bytes = {1 << 62}, cost = {1 << 62}"))
    lied = await traffic.analytics.timeseries(question, Step.DAY, "endpoint", limit=20)
    for was, line in zip(honest.lines, lied.lines, strict=True):
        for before, after in zip(was.points, line.points, strict=True):
            assert after.sums.bytes >= 0
            assert after.sums.cost >= 0
            assert without_lies(after.sums) == without_lies(before.sums)
            assert after.latency == before.latency
    table = await traffic.analytics.export(question, "endpoint", by_day=True)
    rows = [row async for page in traffic.analytics.export_pages(table) for row in page]
    assert all(row.sums.bytes >= 0 and row.sums.cost >= 0 for row in rows)
    assert max(row.sums.bytes for row in rows) >= 1 << 62


def without_lies(sums: Sums) -> tuple[int, ...]:
    return (sums.requests, sums.allowed, sums.results, sums.errors, *sums.statuses)
