"""Traffic of 120 days in the ledger, random questions about it, and the answers that counting the events one by one gives."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest_asyncio

from apishield.analytics.endpoint_names import collapse
from apishield.analytics.histogram import Histogram
from apishield.analytics.periods import Horizon
from apishield.analytics.reports import latency
from apishield.analytics.rollup import as_units
from apishield.analytics.steps import SECOND_US, Step, ceil, floor
from apishield.core.events import CATALOGUED, PEEK, TEST, DecisionEvent, Event, ResultEvent
from apishield.core.records import Environment
from apishield.errors import PROBLEMS
from apishield.services.analytics.figures import Figures
from apishield.services.analytics.questions import OUTCOMES, Filters, Question, ask
from apishield.services.analytics.service import AnalyticsService
from apishield.services.ledger import LedgerService
from apishield.stores.sql.analytics.plan import Group, Sums
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
    assert found.latency == latency(histogram), question


def counts(sums: Sums | None) -> tuple[int, int]:
    return (0, 0) if sums is None else (sums.requests, sums.allowed)


def step_of(at_us: int, step: Step, time_zone: str) -> int:
    """The start of the step, by the clocks of the zone, in which an event was."""
    at = datetime.fromtimestamp(at_us // SECOND_US, ZoneInfo(time_zone))
    start = at.replace(minute=0, second=0) if step is Step.HOUR else at.replace(hour=0, minute=0, second=0)
    return int(start.timestamp())
