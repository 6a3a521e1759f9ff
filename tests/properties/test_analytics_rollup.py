"""Nothing is lost or counted twice: all grouping sets and all steps sum up to the events."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apishield.analytics.rollup import Aggregator, Dims, Measures, Rollup, as_units, settled
from apishield.analytics.steps import SECOND_US, Step
from apishield.core.events import (
    CATALOGUED,
    PEEK,
    TEST,
    CountEvent,
    DecisionEvent,
    Event,
    ResultEvent,
    SettlementEvent,
    Units,
)

DAY_US = 86_400 * SECOND_US
instants_us = st.integers(1_795_000_000 * SECOND_US, 1_795_000_000 * SECOND_US + 3 * DAY_US)
amounts = st.integers(0, 10**9)
units = st.one_of(amounts, st.dictionaries(st.sampled_from(["requests", "tokens", "rows"]), amounts, max_size=3))
codes = st.sampled_from(["ok", "ok", "rate_limited", "blocked", "store_unavailable"])
shapes = {
    "tenant_id": st.sampled_from(["ten_1", "ten_2"]),
    "code": codes,
    "flags": st.sampled_from([0, TEST, CATALOGUED, PEEK]),
    "key_id": st.sampled_from([None, "key_1", "key_2"]),
    "customer_id": st.sampled_from([None, "cus_1"]),
    "method": st.sampled_from([None, "GET", "POST", "INVENTED"]),
    "path": st.sampled_from([None, "/a/1", "/a/2", "/b"]),
    "endpoint": st.sampled_from([None, "/a/{id}"]),
    "country": st.sampled_from([None, "DE", "fr", "nowhere"]),
}
decisions = st.builds(
    DecisionEvent, sequence=st.just(0), at_us=instants_us, units=units, address=st.sampled_from([None, "::1"]), **shapes
)
counts = st.builds(
    CountEvent,
    at_us=instants_us.map(lambda at_us: at_us // (60 * SECOND_US) * 60 * SECOND_US),
    count=st.integers(1, 10**6),
    units=units,
    results=st.none() | st.dictionaries(st.integers(100, 599), st.integers(1, 1000), max_size=3),
    **shapes,
)
results = st.builds(
    ResultEvent,
    spool=st.just(0),
    sequence=st.just(0),
    decided_at_ms=st.just(0),
    tenant_id=st.just(""),
    at_us=instants_us,
    status=st.integers(100, 599),
    latency_us=st.integers(0, DAY_US),
    bytes=st.none() | amounts,
)
settlements = st.builds(
    SettlementEvent,
    spool=st.just(0),
    sequence=st.just(0),
    decided_at_ms=st.just(0),
    tenant_id=st.just(""),
    at_us=instants_us,
    units=st.dictionaries(st.sampled_from(["requests", "tokens", "bytes"]), amounts, max_size=3),
    released=st.booleans(),
)
stories = st.lists(
    st.tuples(decisions, st.none() | results, st.lists(settlements, max_size=2)) | st.tuples(counts), max_size=15
)


def told(stories: list[tuple[Any, ...]], aggregator: Aggregator) -> None:
    for story in stories:
        event: Event = story[0]
        if isinstance(event, CountEvent):
            aggregator.add_count(event)
            continue
        assert isinstance(event, DecisionEvent)
        aggregator.add_decision(event)
        if story[1] is not None:
            aggregator.add_result(event, story[1])
        current = event.units
        for settlement in story[2]:
            aggregator.add_settlement(event, settlement, current)
            current = settled(current, settlement)


def sums(rollup: Rollup, dims: Dims) -> dict[tuple[str, str, str], Measures]:
    """By tenant, environment and code."""
    found: dict[tuple[str, str, str], Measures] = defaultdict(Measures)
    for (series, _), measures in rollup.items():
        if series.dims is dims:
            found[series.tenant_id, series.environment, series.code].add(measures)
    return dict(found)


@given(stories=stories)
def test_every_grouping_set_and_every_step_sums_up_to_the_same(stories: list[tuple[Any, ...]]) -> None:
    aggregator = Aggregator(lambda _tenant_id, _method, endpoint, _claims: endpoint != "/b")
    told(stories, aggregator)
    minutes = aggregator.minutes
    whole = sums(minutes, Dims.TENANT)
    for rollup in (minutes, minutes.at(Step.HOUR), minutes.at(Step.DAY), minutes.at(Step.HOUR).at(Step.DAY)):
        assert all(bucket_s % rollup.step.seconds == 0 for _, bucket_s in rollup)
        for dims in Dims:
            assert sums(rollup, dims) == whole


@given(stories=stories)
def test_the_sums_are_those_of_the_events(stories: list[tuple[Any, ...]]) -> None:
    aggregator = Aggregator()
    told(stories, aggregator)
    requests = results = cost = tokens = 0
    for story in stories:
        event = story[0]
        if event.flags & PEEK:
            continue
        counted = isinstance(event, CountEvent)
        requests += event.count if counted else 1
        results += sum((event.results or {}).values()) if counted else int(story[1] is not None)
        final: Units = event.units
        for settlement in [] if counted else story[2]:
            final = settled(final, settlement)
        if event.code == "ok":
            cost += as_units(final).get("requests", 0)
            tokens += as_units(final).get("tokens", 0)
    whole = Measures()
    for measures in sums(aggregator.minutes, Dims.FULL).values():
        whole.add(measures)
    assert (whole.requests, whole.results, whole.cost) == (requests, results, cost)
    assert whole.units.get("tokens", 0) == tokens


@given(stories=stories)
def test_status_classes_sum_up_to_results_of_what_was_admitted_and_to_requests_of_what_was_refused(
    stories: list[tuple[Any, ...]],
) -> None:
    aggregator = Aggregator()
    told(stories, aggregator)
    for (series, _), found in aggregator.minutes.items():
        classes = found.status_1xx + found.status_2xx + found.status_3xx + found.status_4xx + found.status_5xx
        assert classes == (found.results if series.code == "ok" else found.requests)


@given(stories=stories, cut=st.integers(0, 15))
def test_two_intakes_add_up_to_one(stories: list[tuple[Any, ...]], cut: int) -> None:
    whole, first, second = Aggregator(), Aggregator(), Aggregator()
    told(stories, whole)
    told(stories[:cut], first)
    told(stories[cut:], second)
    both = first.minutes
    for (series, bucket_s), measures in second.minutes.items():
        both.cell(series, bucket_s).add(measures)
    assert both == whole.minutes
