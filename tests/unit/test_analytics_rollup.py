"""What each kind of event counts, and where."""

from __future__ import annotations

import msgspec
import pytest

from apishield.analytics.rollup import OTHER, Aggregator, Dims, Measures, Rollup, Series, settled
from apishield.analytics.steps import SECOND_US, Step
from apishield.core.events import CATALOGUED, PEEK, TEST, CountEvent, DecisionEvent, ResultEvent, SettlementEvent, Units

MINUTE_S = 1_795_000_020  # a whole minute, and not a whole hour
AT_US = MINUTE_S * SECOND_US + 17_000_000

DECISION = DecisionEvent(
    1,
    AT_US,
    "ten_1",
    "ok",
    CATALOGUED,
    key_id="key_1",
    customer_id="cus_1",
    method="GET",
    path="/orders/7",
    endpoint="/orders/{order}",
    address="192.0.2.1",
    country="DE",
)


def refused(decision: DecisionEvent, code: str) -> DecisionEvent:
    return msgspec.structs.replace(decision, code=code)


def result(status: int = 200, latency_us: int = 1_500, bytes_: int | None = 70) -> ResultEvent:
    return ResultEvent(1, 1, AT_US // 1000, "ten_1", AT_US + 90 * SECOND_US, status, latency_us, bytes_)


def settlement(units: dict[str, int], *, released: bool = False) -> SettlementEvent:
    return SettlementEvent(1, 1, AT_US // 1000, "ten_1", AT_US + 90 * SECOND_US, units, released)


def of(rollup: Rollup, dims: Dims = Dims.TENANT, code: str = "ok") -> Measures:
    [measures] = [found for (series, _), found in rollup.items() if (series.dims, series.code) == (dims, code)]
    return measures


def test_a_decision_counts_once_in_every_grouping_set_in_its_minute() -> None:
    aggregator = Aggregator()
    aggregator.add_decision(DECISION)
    assert {series for series, _ in aggregator.minutes} == {
        Series("ten_1", "live", Dims.TENANT, "ok"),
        Series("ten_1", "live", Dims.KEY, "ok", key_id="key_1", customer_id="cus_1"),
        Series("ten_1", "live", Dims.ENDPOINT, "ok", endpoint="/orders/{order}", method="GET"),
        Series("ten_1", "live", Dims.COUNTRY, "ok", country="DE"),
        Series("ten_1", "live", Dims.FULL, "ok", "key_1", "cus_1", "/orders/{order}", "GET", "DE"),
    }
    assert {bucket_s for _, bucket_s in aggregator.minutes} == {MINUTE_S}
    assert all(found == Measures(requests=1, cost=1) for found in aggregator.minutes.values())
    assert {bucket_s for _, bucket_s in aggregator.minutes.at(Step.HOUR)} == {MINUTE_S // 3600 * 3600}
    assert {bucket_s for _, bucket_s in aggregator.minutes.at(Step.DAY)} == {MINUTE_S // 86400 * 86400}


@pytest.mark.parametrize(
    ("code", "status_class"), [("rate_limited", "status_4xx"), ("store_unavailable", "status_5xx")]
)
def test_a_refusal_costs_nothing_and_counts_the_status_of_its_code(code: str, status_class: str) -> None:
    aggregator = Aggregator()
    aggregator.add_decision(msgspec.structs.replace(DECISION, code=code, units={"requests": 3, "tokens": 900}))
    expected = Measures(requests=1)
    setattr(expected, status_class, 1)
    assert of(aggregator.minutes, code=code) == expected


def test_a_peek_counts_nowhere() -> None:
    aggregator = Aggregator()
    peek = msgspec.structs.replace(DECISION, flags=PEEK)
    aggregator.add_decision(peek)
    aggregator.add_result(peek, result())
    aggregator.add_settlement(peek, settlement({"requests": 5}), 1)
    aggregator.add_count(CountEvent(AT_US, "ten_1", "ok", PEEK, 9, units=9))
    assert not aggregator.minutes
    assert not aggregator.addresses


def test_live_and_test_traffic_are_apart() -> None:
    aggregator = Aggregator()
    aggregator.add_decision(DECISION)
    aggregator.add_decision(msgspec.structs.replace(DECISION, flags=CATALOGUED | TEST))
    environments = [series.environment for series, _ in aggregator.minutes if series.dims is Dims.TENANT]
    assert sorted(environments) == ["live", "test"]
    assert len(aggregator.addresses) == 2


def test_units_other_than_requests_are_summed_by_name() -> None:
    aggregator = Aggregator()
    for units in ({"requests": 2, "tokens": 900}, {"tokens": 100, "rows": 4}, 3):
        aggregator.add_decision(msgspec.structs.replace(DECISION, units=units))
    assert of(aggregator.minutes) == Measures(requests=3, cost=5, units={"tokens": 1000, "rows": 4})


def test_a_result_counts_in_the_minute_of_its_decision() -> None:
    aggregator = Aggregator()
    aggregator.add_decision(DECISION)
    aggregator.add_result(DECISION, result(503, 1_500, 70))
    assert {bucket_s for _, bucket_s in aggregator.minutes} == {MINUTE_S}
    found = of(aggregator.minutes, Dims.FULL)
    assert (found.requests, found.results, found.status_5xx, found.bytes, found.latency_us) == (1, 1, 1, 70, 1_500)
    assert found.latency is not None
    assert found.latency.count == 1


def test_a_result_of_a_refusal_does_not_count_its_status_twice() -> None:
    aggregator = Aggregator()
    limited = refused(DECISION, "rate_limited")
    aggregator.add_decision(limited)
    aggregator.add_result(limited, result(429))
    found = of(aggregator.minutes, code="rate_limited")
    assert (found.results, found.status_4xx) == (1, 1)


@pytest.mark.parametrize(
    ("status", "status_class"),
    [(100, "1xx"), (204, "2xx"), (304, "3xx"), (499, "4xx"), (500, "5xx"), (599, "5xx"), (0, "1xx"), (999, "5xx")],
)
def test_every_status_has_a_class(status: int, status_class: str) -> None:
    aggregator = Aggregator()
    aggregator.add_result(DECISION, result(status))
    assert getattr(of(aggregator.minutes), f"status_{status_class}") == 1


def test_an_absurd_latency_does_not_stop_the_drain() -> None:
    aggregator = Aggregator()
    aggregator.add_result(DECISION, result(latency_us=-5))
    aggregator.add_result(DECISION, result(latency_us=10**15))
    assert of(aggregator.minutes).latency_us == 86_400_000_000


@pytest.mark.parametrize(
    ("units", "told", "cost", "others"),
    [
        (5, {"requests": 2}, 2, {}),
        (1, {"tokens": 700}, 1, {"tokens": 700}),
        ({"requests": 1, "tokens": 900}, {"tokens": 650}, 1, {"tokens": 650}),
        ({"requests": 1, "tokens": 900}, {"tokens": 1200, "requests": 4}, 4, {"tokens": 1200}),
        ({"tokens": 900, "rows": 5}, {}, 0, {"tokens": 900, "rows": 5}),
    ],
)
def test_a_settlement_leaves_the_final_cost(
    units: Units, told: dict[str, int], cost: int, others: dict[str, int]
) -> None:
    aggregator = Aggregator()
    decision = msgspec.structs.replace(DECISION, units=units)
    aggregator.add_decision(decision)
    aggregator.add_settlement(decision, settlement(told), units)
    assert of(aggregator.minutes) == Measures(requests=1, cost=cost, units=others)


def test_a_release_gives_back_everything_also_after_a_settlement() -> None:
    aggregator = Aggregator()
    decision = msgspec.structs.replace(DECISION, units={"requests": 1, "tokens": 900})
    aggregator.add_decision(decision)
    aggregator.add_settlement(decision, settlement({"tokens": 50, "rows": 3}), decision.units)
    now = settled(decision.units, settlement({"tokens": 50, "rows": 3}))
    aggregator.add_settlement(decision, settlement({}, released=True), now)
    assert of(aggregator.minutes) == Measures(requests=1)


def test_a_settlement_in_a_later_intake_is_the_difference() -> None:
    later = Aggregator()
    later.add_settlement(DECISION, settlement({"requests": 4}), 1)
    assert of(later.minutes) == Measures(cost=3)
    assert {bucket_s for _, bucket_s in later.minutes} == {MINUTE_S}


def test_a_settlement_that_changes_nothing_writes_nothing() -> None:
    later = Aggregator()
    later.add_settlement(DECISION, settlement({"requests": 1, "tokens": 0}), 1)
    assert not later.minutes


def test_a_settlement_of_a_refusal_counts_nothing() -> None:
    aggregator = Aggregator()
    aggregator.add_settlement(refused(DECISION, "rate_limited"), settlement({"requests": 4}), 1)
    assert not aggregator.minutes


def test_counts_carry_sums() -> None:
    aggregator = Aggregator()
    units, results = {"requests": 1000, "tokens": 70}, {200: 600, 503: 4}
    aggregator.add_count(CountEvent(AT_US, "ten_1", "ok", 0, 1000, units=units, results=results))
    aggregator.add_count(CountEvent(AT_US, "ten_1", "rate_limited", 0, 50_000, units=50_000, results={429: 9}))
    assert of(aggregator.minutes) == Measures(
        requests=1000, cost=1000, results=604, status_2xx=600, status_5xx=4, units={"tokens": 70}
    )
    assert of(aggregator.minutes, code="rate_limited") == Measures(requests=50_000, results=9, status_4xx=50_000)


def test_an_endpoint_without_a_template_is_named_after_its_path() -> None:
    aggregator = Aggregator()
    for number in (17, 18):
        aggregator.add_decision(msgspec.structs.replace(DECISION, endpoint=None, flags=0, path=f"/orders/{number}"))
    assert of(aggregator.minutes, Dims.ENDPOINT).requests == 2
    assert [series.endpoint for series, _ in aggregator.minutes if series.dims is Dims.ENDPOINT] == ["/orders/{id}"]


def test_an_endpoint_that_is_not_admitted_is_counted_as_other_and_asked_for_once() -> None:
    asked: list[tuple[str, str, str, bool]] = []

    def known(tenant_id: str, method: str, endpoint: str, admitted: bool) -> bool:
        asked.append((tenant_id, method, endpoint, admitted))
        return endpoint == "/known"

    aggregator = Aggregator(known)
    for path in ("/known", "/one", "/two", "/one"):
        for key_id in ("key_1", "key_2"):
            decision = msgspec.structs.replace(DECISION, endpoint=None, flags=0, path=path, key_id=key_id)
            aggregator.add_decision(decision)
    aggregator.add_decision(DECISION)  # of the catalogue, which has its own ceiling
    found = {
        series.endpoint: measures.requests
        for (series, _), measures in aggregator.minutes.items()
        if series.dims is Dims.ENDPOINT
    }
    assert found == {"/known": 2, OTHER: 6, "/orders/{order}": 1}
    assert asked == [("ten_1", "GET", path, True) for path in ("/known", "/one", "/two")]


def test_a_template_is_not_mistaken_for_a_path_that_looks_like_it() -> None:
    aggregator = Aggregator(lambda *_: False)
    for flags in (CATALOGUED, 0, CATALOGUED):
        aggregator.add_decision(msgspec.structs.replace(DECISION, flags=flags))
    found = {s.endpoint: m.requests for (s, _), m in aggregator.minutes.items() if s.dims is Dims.ENDPOINT}
    assert found == {"/orders/{order}": 2, OTHER: 1}


def test_a_key_that_changes_hands_counts_for_whom_it_belonged_to() -> None:
    aggregator = Aggregator()
    for customer_id in ("cus_1", "cus_2", None):
        aggregator.add_decision(msgspec.structs.replace(DECISION, customer_id=customer_id))
    found = {s.customer_id: m.requests for (s, _), m in aggregator.minutes.items() if s.dims is Dims.KEY}
    assert found == {"cus_1": 1, "cus_2": 1, "": 1}


def test_what_a_caller_can_invent_makes_no_series() -> None:
    aggregator = Aggregator()
    for number in range(50):
        invented = msgspec.structs.replace(DECISION, method=f"M{number}", country=f"Atlantis{number}")
        aggregator.add_decision(invented)
    assert {(series.method, series.country) for series, _ in aggregator.minutes if series.dims is Dims.FULL} == {
        (OTHER, OTHER)
    }


def test_a_country_is_written_in_capitals_and_an_unknown_one_is_empty() -> None:
    aggregator = Aggregator()
    for country in ("de", "DE", None, ""):
        aggregator.add_decision(msgspec.structs.replace(DECISION, country=country))
    found = {s.country: m.requests for (s, _), m in aggregator.minutes.items() if s.dims is Dims.COUNTRY}
    assert found == {"DE": 2, "": 2}


def test_addresses_are_counted_by_hour_and_of_version_6_by_network() -> None:
    aggregator = Aggregator()
    aggregator.add_decision(DECISION)
    aggregator.add_decision(refused(DECISION, "rate_limited"))
    for host in ("2001:db8::1", "2001:db8::2"):
        aggregator.add_decision(msgspec.structs.replace(DECISION, address=host))
    hour_s = MINUTE_S // 3600 * 3600
    assert aggregator.addresses == {
        ("ten_1", "live", hour_s, "192.0.2.1"): [2, 1],
        ("ten_1", "live", hour_s, "2001:db8::/64"): [2, 0],
    }


def test_a_code_of_a_newer_version_is_counted_as_an_error_of_the_server() -> None:
    aggregator = Aggregator()
    aggregator.add_decision(refused(DECISION, "not_invented_yet"))
    assert of(aggregator.minutes, code="not_invented_yet").status_5xx == 1


def test_series_can_be_counted_under_one_that_stands_for_several() -> None:
    aggregator = Aggregator()
    for key_id in ("key_1", "key_2", "key_3"):
        aggregator.add_decision(msgspec.structs.replace(DECISION, key_id=key_id))
    folded = aggregator.minutes.renamed(
        lambda series: series if series.key_id in {"", "key_1"} or series.dims is not Dims.KEY else series.other()
    )
    found = {series.key_id: m.requests for (series, _), m in folded.items() if series.dims is Dims.KEY}
    assert found == {"key_1": 1, OTHER: 2}
    assert of(folded).requests == 3


def test_the_other_series_of_a_set_names_only_what_the_set_tells_apart() -> None:
    assert Series("t", "live", Dims.ENDPOINT, "ok", endpoint="/a", method="GET").other() == Series(
        "t", "live", Dims.ENDPOINT, "ok", endpoint=OTHER, method=OTHER
    )
    assert Series("t", "live", Dims.TENANT, "ok").other() == Series("t", "live", Dims.TENANT, "ok")


def test_sums_do_not_share_a_histogram_with_what_they_were_summed_from() -> None:
    aggregator = Aggregator()
    aggregator.add_result(DECISION, result())
    minutes = aggregator.minutes
    hours = minutes.at(Step.HOUR)
    for measures in hours.values():
        assert measures.latency is not None
        measures.latency.add(9)
    assert all(measures.latency is not None and measures.latency.count == 1 for measures in minutes.values())
