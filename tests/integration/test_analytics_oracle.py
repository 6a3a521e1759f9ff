"""Whatever is asked of the ledger, the answer is what counting the events one by one gives. On both databases."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import pytest_asyncio

from apishield.analytics.endpoint_names import collapse
from apishield.analytics.histogram import Histogram
from apishield.analytics.periods import Horizon
from apishield.analytics.rollup import as_units
from apishield.analytics.steps import SECOND_US, Step, ceil, floor
from apishield.core.events import CATALOGUED, PEEK, TEST, DecisionEvent, Event, ResultEvent
from apishield.core.records import Environment
from apishield.errors import PROBLEMS
from apishield.services.analytics import export
from apishield.services.analytics.breakdowns import KINDS, Kind
from apishield.services.analytics.export import SUBJECTS, Row, Subject
from apishield.services.analytics.figures import Figures
from apishield.services.analytics.questions import OUTCOMES, Filters, Question, ask
from apishield.services.analytics.service import AnalyticsService
from apishield.services.analytics.timeseries import GROUPINGS, GroupBy
from apishield.services.ledger import LedgerService
from apishield.stores.sql.analytics import rollups, sources
from apishield.stores.sql.analytics.plan import Group, Selection, Sums
from apishield.stores.sql.database import Database
from tests.support.clock import START_US, ManualClock
from tests.support.taking import Taking

HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US
TENANTS = ("ten_a", "ten_b")
KEYS = (None, "key_1", "key_2", "key_3")
CUSTOMERS = {None: None, "key_1": "cus_1", "key_2": "cus_1", "key_3": None}
PATHS = ("/orders/17", "/orders/18", "/things", None)
METHODS = ("GET", "POST", None)
COUNTRIES = ("DE", "FR", None)
CODES = ("ok", "ok", "ok", "rate_limited", "quota_exceeded", "key_unknown", "blocked", "stale")
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York")


@dataclass
class Traffic:
    """Events, and how to count them one by one."""

    analytics: AnalyticsService
    decisions: list[DecisionEvent]
    results: dict[int, ResultEvent]
    now_us: int

    def of(self, question: Question) -> Iterable[DecisionEvent]:
        """The decisions that a question is about."""
        return (event for event in self.decisions if fits(event, question) and lies_in(event, question))

    def figures(self, events: Iterable[DecisionEvent], status: int | None) -> tuple[Sums, dict[str, int], list[int]]:
        """Sums, cost by unit, and latencies in microseconds."""
        sums, units, latencies = Sums(), Counter[str](), list[int]()
        statuses = [0] * 5
        for event in events:
            result = self.results.get(event.sequence)
            allowed = event.code == "ok"
            answered = (result.status if result else None) if allowed else PROBLEMS[event.code].status
            if status is not None:
                matches = answered is not None and answered // 100 == status
                sums.requests += matches
                sums.allowed += matches and allowed
                continue
            sums.requests += 1
            if answered is not None:
                statuses[answered // 100 - 1] += 1
            if not allowed:
                continue
            sums.allowed += 1
            units.update(as_units(event.units))
            if result is not None:
                sums.results += 1
                sums.errors += result.status >= 500
                sums.bytes += result.bytes or 0
                latencies.append(result.latency_us)
        sums.cost = units.pop("requests", 0)
        one, two, three, four, five = statuses
        sums.statuses = (one, two, three, four, five)
        return sums, {unit: cost for unit, cost in units.items() if cost}, latencies


def fits(event: DecisionEvent, question: Question) -> bool:
    chosen = question.selection
    wanted = {"key_id": chosen.key_id, "customer_id": chosen.customer_id, "method": chosen.method}
    return (
        event.tenant_id == question.tenant_id
        and not event.flags & PEEK
        and bool(event.flags & TEST) == (question.environment is Environment.TEST)
        and (chosen.codes is None or event.code in chosen.codes)
        and all(value is None or getattr(event, name) == value for name, value in wanted.items())
        and (chosen.endpoint is None or endpoint(event) == chosen.endpoint)
        and (chosen.country is None or event.country == chosen.country)
    )


def lies_in(event: DecisionEvent, question: Question) -> bool:
    """Whether the event's minute is in the period, or, where minutes are no longer kept, the hour or day that is."""
    horizon = Horizon.at(question.now_us)
    start_s, end_s = (instant_us // SECOND_US for instant_us in question.period)
    if start_s >= end_s:
        return False
    bucket_s = floor(event.at_us // SECOND_US, Step.MINUTE)
    return floor(start_s, horizon.finest(start_s)) <= bucket_s < ceil(end_s, horizon.finest(end_s))


def endpoint(event: DecisionEvent) -> str:
    return event.endpoint if event.endpoint is not None else collapse(event.path)


LABELS: dict[str, Callable[[DecisionEvent], str]] = {
    "key_id": lambda event: event.key_id or "",
    "customer_id": lambda event: event.customer_id or "",
    "endpoint": endpoint,
    "method": lambda event: event.method or "",
    "country": lambda event: event.country or "",
    "code": lambda event: event.code,
}


def grouped(events: Iterable[DecisionEvent], columns: Sequence[str]) -> dict[Group, list[DecisionEvent]]:
    groups: dict[Group, list[DecisionEvent]] = defaultdict(list)
    for event in events:
        groups[tuple(LABELS[column](event) for column in columns)].append(event)
    return groups


def make_decision(rng: random.Random, sequence: int, now_us: int) -> DecisionEvent:
    age_us = rng.choice((HOUR_US, DAY_US, 6 * DAY_US, 30 * DAY_US, 120 * DAY_US))
    key_id, path = rng.choice(KEYS), rng.choice(PATHS)
    catalogued = path == "/things"
    flags = (TEST if rng.random() < 0.2 else 0) | (PEEK if rng.random() < 0.1 else 0)
    return DecisionEvent(
        sequence=sequence,
        at_us=now_us - rng.randrange(age_us),
        tenant_id=rng.choice(TENANTS),
        code=rng.choice(CODES),
        flags=flags | (CATALOGUED if catalogued else 0),
        key_id=key_id,
        customer_id=CUSTOMERS[key_id],
        method=rng.choice(METHODS),
        path=path,
        endpoint="/things" if catalogued else None,
        address=rng.choice(("192.0.2.1", "192.0.2.2", None)),
        country=rng.choice(COUNTRIES),
        units=rng.choice((1, 3, {"requests": 1, "tokens": 40}, {"tokens": 7})),
    )


def make_result(rng: random.Random, decision: DecisionEvent, spool: int) -> ResultEvent:
    return ResultEvent(
        spool=spool,
        sequence=decision.sequence,
        decided_at_ms=decision.at_us // 1000,
        tenant_id=decision.tenant_id,
        at_us=decision.at_us + 1000,
        status=rng.choice((200, 201, 302, 404, 500, 503)),
        latency_us=rng.randrange(1, 3_000_000),
        bytes=rng.choice((None, 0, 512)),
    )


@pytest_asyncio.fixture
async def traffic(database: Database, clock: ManualClock) -> Traffic:
    """Traffic of 120 days, in the ledger."""
    rng = random.Random(17)
    taking = Taking(LedgerService(database, clock))
    decisions = [make_decision(rng, sequence, START_US) for sequence in range(1, 1200)]
    results = {
        event.sequence: make_result(rng, event, taking.spool)
        for event in decisions
        if event.code == "ok" and not event.flags & PEEK and rng.random() < 0.7
    }
    events: list[Event] = [*decisions]
    for start in range(0, len(events), 300):
        some = decisions[start : start + 300]
        await taking.take([*some, *(results[event.sequence] for event in some if event.sequence in results)])
    return Traffic(AnalyticsService(database, clock), decisions, results, START_US)


def make_question(rng: random.Random, now_us: int, *, days: int = 120, status: bool = True) -> Question:
    to_us = now_us - rng.choice((0, 0, rng.randrange(days * DAY_US)))
    from_us = to_us - rng.choice((0, 90 * SECOND_US, rng.randrange(DAY_US), rng.randrange(days * DAY_US)))
    sometimes: Callable[[Sequence[Any]], Any] = lambda values: rng.choice(values) if rng.random() < 0.25 else None  # noqa: E731
    filters = Filters(
        key_id=sometimes(("key_1", "key_3", "key_unknown")),
        customer_id=sometimes(("cus_1",)),
        endpoint=sometimes(("/orders/{id}", "/things")),
        method=sometimes(("GET", "post")),
        outcome=sometimes(tuple(OUTCOMES)),
        status=sometimes(("2xx", "4xx", "5xx")) if status else None,
        country=sometimes(("DE", "fr")),
        environment=rng.choice((Environment.LIVE, Environment.LIVE, Environment.TEST)),
    )
    texts = [
        datetime.fromtimestamp(instant_us // SECOND_US, ZoneInfo("UTC")).isoformat() for instant_us in (from_us, to_us)
    ]
    return ask(rng.choice(TENANTS), filters, now_us=now_us, from_=texts[0], to=texts[1], time_zone=rng.choice(ZONES))


QUESTIONS = 40


def questions(traffic: Traffic, **how: Any) -> Iterable[tuple[random.Random, Question]]:
    """Random questions, the same ones each time."""
    for seed in range(QUESTIONS):
        rng = random.Random(seed)
        yield rng, make_question(rng, traffic.now_us, **how)


def hold(found: Figures, expected: tuple[Sums, dict[str, int], list[int]], question: Question) -> None:
    sums, units, latencies = expected
    assert found.sums == sums, question
    assert {unit: cost for unit, cost in found.units.items() if cost} == units, question
    histogram = Histogram()
    for latency_us in latencies:
        histogram.add(latency_us)
    p95 = histogram.quantile(0.95)
    assert found.latency.p95 == (None if p95 is None else p95 / 1000), question


def counts(sums: Sums | None) -> tuple[int, int]:
    return (0, 0) if sums is None else (sums.requests, sums.allowed)


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


async def test_a_timeseries_has_every_event_in_its_own_step_of_the_time_zone(traffic: Traffic) -> None:
    held = 0
    for rng, question in questions(traffic, days=6):
        group_by: GroupBy | None = rng.choice((None, *GROUPINGS))
        step = rng.choice((Step.DAY, Step.HOUR))
        found = await traffic.analytics.timeseries(question, step, group_by, limit=2)
        horizon = Horizon.at(question.now_us)
        if floor(question.period.from_us // SECOND_US, Step.DAY) < horizon.minutes_from_s:
            continue  # steps of a zone are told apart as well as hours of UTC can; the sums are held above
        columns = GROUPINGS[group_by] if group_by else ()
        expected: dict[tuple[Group, int], list[DecisionEvent]] = defaultdict(list)
        for event in traffic.of(question):
            group = tuple(LABELS[column](event) for column in columns)
            expected[group, step_of(event.at_us, step, question.time_zone)].append(event)
        for line in found.lines:
            for start_s, figures in zip(found.starts_s, line.points, strict=True):
                hold(figures, traffic.figures(expected[line.group or (), start_s], question.selection.status), question)
        if found.other is not None:
            left = sum(point.sums.requests for point in found.other.points)
            shown = sum(point.sums.requests for line in found.lines for point in line.points)
            assert left + shown == traffic.figures(traffic.of(question), question.selection.status)[0].requests
        held += sum(point.sums.requests for line in found.lines for point in line.points)
    assert held > 100


async def test_a_timeseries_of_what_is_old_has_the_steps_that_are_kept_each_where_its_bucket_begins(
    traffic: Traffic,
) -> None:
    """Whatever step is asked for: hours (of UTC) for what is older than 7 days, days for what is older than 90."""
    held = dict.fromkeys(Step, 0)
    horizon = Horizon.at(traffic.now_us)
    for rng, question in questions(traffic):
        asked = rng.choice(list(Step))
        kept = horizon.finest(question.period.from_us // SECOND_US)
        step = max(asked, kept, key=lambda step: step.seconds)
        minutes = (question.period.to_us - question.period.from_us) // (60 * SECOND_US)
        if kept is Step.MINUTE or minutes > 900 * step.seconds // 60:
            continue
        found = await traffic.analytics.timeseries(question, asked, None, limit=1)
        assert found.step is step, question
        expected: dict[int, list[DecisionEvent]] = defaultdict(list)
        for event in traffic.of(question):
            expected[kept_point(event.at_us, step, question.time_zone, found.starts_s, horizon)].append(event)
        for start_s, figures in zip(found.starts_s, found.lines[0].points, strict=True):
            hold(figures, traffic.figures(expected[start_s], question.selection.status), question)
            held[step] += figures.sums.requests
    assert held[Step.MINUTE] == 0
    assert held[Step.HOUR] > 50
    assert held[Step.DAY] > 100


def kept_point(at_us: int, step: Step, time_zone: str, starts_s: Sequence[int], horizon: Horizon) -> int:
    """The start of the step in which an event counts, of which not more than its hour or day may be known."""
    at_s = at_us // SECOND_US
    if step is Step.HOUR:
        return floor(at_s, Step.HOUR)
    finest = horizon.finest(at_s)
    if finest is Step.DAY:  # the day of its date
        date = datetime.fromtimestamp(at_s, ZoneInfo("UTC")).replace(hour=0, minute=0, second=0)
        start_s = int(date.replace(tzinfo=ZoneInfo(time_zone)).timestamp())
    else:
        start_s = step_of((floor(at_s, finest) + finest.seconds // 2) * SECOND_US, Step.DAY, time_zone)
    return min(max(start_s, starts_s[0]), starts_s[-1])  # a day that reaches out of the period counts whole at its edge


def step_of(at_us: int, step: Step, time_zone: str) -> int:
    """The start of the step, by the clocks of the zone, in which an event was."""
    at = datetime.fromtimestamp(at_us // SECOND_US, ZoneInfo(time_zone))
    start = at.replace(minute=0, second=0) if step is Step.HOUR else at.replace(hour=0, minute=0, second=0)
    return int(start.timestamp())


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


async def test_the_sum_of_a_timeseries_is_the_summary_however_old_the_period_is(traffic: Traffic) -> None:
    for rng, question in questions(traffic):
        group_by: GroupBy | None = rng.choice((None, *GROUPINGS))
        found = await traffic.analytics.timeseries(question, None, group_by, limit=3)
        lines = [*found.lines, *([found.other] if found.other else [])]
        total = sum(point.sums.requests for line in lines for point in line.points)
        assert total == traffic.figures(traffic.of(question), question.selection.status)[0].requests, question


async def test_an_export_has_all_that_was_used_in_rows_of_its_own(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_GROUPS_AT_ONCE", 2)  # so that there are several pages
    for rng, question in questions(traffic, status=False):
        subject: Subject | None = rng.choice((None, *SUBJECTS))
        by_day = subject is None or rng.random() < 0.5
        table = await traffic.analytics.export(question, subject, by_day=by_day)
        rows = [row async for page in traffic.analytics.export_pages(table) for row in page]
        assert len({tuple(row.labels) for row in rows}) == len(rows), question
        found = {}
        for group, same in _by_subject(rows, subject, by_day=by_day).items():
            sums, units = Sums(), Counter[str]()
            for row in same:
                sums.add(row.sums)
                units.update(row.units)
            found[group] = (sums, {unit: cost for unit, cost in units.items() if cost})
        columns = SUBJECTS[subject] if subject else ()
        expected = {
            group: traffic.figures(some, None)[:2] for group, some in grouped(traffic.of(question), columns).items()
        }
        assert found == expected, question


def _by_subject(rows: Iterable[Row], subject: Subject | None, *, by_day: bool) -> dict[Group, list[Row]]:
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        labels = tuple(row.labels[:-1] if by_day else row.labels)
        groups[labels[:1] if subject in {"key", "customer"} else labels].append(row)
    return groups
