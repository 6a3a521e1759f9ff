"""What the ledger says of a tenant's traffic. All figures come from its sums, so they agree with bills and quotas."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, Query

from apishield.analytics.steps import Step
from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import Search
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.addresses import AddressesOut
from apishield.api.schemas.analytics import (
    CountriesOut,
    CustomersOut,
    EndpointsOut,
    KeysOut,
    SummaryOut,
    TimeseriesOut,
)
from apishield.core.records import Environment
from apishield.services.analytics.breakdowns import Breakdown, Kind
from apishield.services.analytics.questions import OUTCOMES, Filters, Question
from apishield.services.analytics.timeseries import GroupBy

router = control_router("Analytics")

MOST_ROWS = 100
MOST_LINES = 20

FromQuery = Annotated[
    Search | None,
    Query(
        alias="from",
        description="RFC 3339, a date, or such as `now-24h`, `now-7d`; 24 hours before `to` where it is absent.",
        examples=["now-24h"],
    ),
]
ToQuery = Annotated[
    Search | None, Query(description="The first instant that is left out; now where it is absent.", examples=["now"])
]
TimeZoneQuery = Annotated[
    Search, Query(description="IANA name: whose days, and whose dates.", examples=["Europe/Berlin"])
]
EnvironmentQuery = Annotated[Environment, Query(description="Of keys: test keys are counted apart.")]
OutcomeQuery = Annotated[
    Search | None, Query(description=f"A group of codes, or one code: {', '.join(OUTCOMES)}.", examples=["limited"])
]


def _filters(
    key_id: Search | None = None,
    customer_id: Search | None = None,
    endpoint: Annotated[
        Search | None, Query(description="As the answers name it: a template, or a path with its ids as `{id}`.")
    ] = None,
    method: Search | None = None,
    outcome: OutcomeQuery = None,
    status: Annotated[
        Search | None, Query(description="A class, `1xx` to `5xx`; only counts are known then.", examples=["5xx"])
    ] = None,
    country: Search | None = None,
    environment: EnvironmentQuery = Environment.LIVE,
) -> Filters:
    return Filters(key_id, customer_id, endpoint, method, outcome, status, country, environment)


def _question(
    actor: CurrentActor,
    runtime: CurrentRuntime,
    filters: Annotated[Filters, Depends(_filters)],
    from_: FromQuery = None,
    to: ToQuery = None,
    time_zone: TimeZoneQuery = "UTC",
) -> Question:
    return runtime.analytics.question(actor, filters, from_=from_, to=to, time_zone=time_zone)


Asked = Annotated[Question, Depends(_question)]
Rows = Annotated[int, Query(ge=1, le=MOST_ROWS, description="How many rows.")]


@router.get("/v1/analytics/summary")
@permit(Permission.ANALYTICS_READ)
async def get_summary(question: Asked, runtime: CurrentRuntime) -> SummaryOut:
    """The whole of a period, and the period of the same length before it."""
    return SummaryOut.of(await runtime.analytics.summary(question), counts_only=_counts_only(question))


@router.get("/v1/analytics/timeseries")
@permit(Permission.ANALYTICS_READ)
async def get_timeseries(
    question: Asked,
    runtime: CurrentRuntime,
    step: Annotated[
        Step | None,
        Query(
            description="At most 1,000 points; the shortest that fits where it is absent. Minutes are kept for 7 days, hours "
            "for 90: a period that begins earlier is answered by hours, or days, as `step` of the answer says."
        ),
    ] = None,
    group_by: Annotated[GroupBy | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LINES, description="How many lines; the rest is `other`.")] = 10,
) -> TimeseriesOut:
    """Figures by minute, hour or day: of all traffic, or a line for each of the busiest groups."""
    found = await runtime.analytics.timeseries(question, step, group_by, limit=limit)
    return TimeseriesOut.of(found, time_zone=question.time_zone, group_by=group_by, counts_only=_counts_only(question))


@router.get("/v1/analytics/endpoints")
@permit(Permission.ANALYTICS_READ)
async def get_endpoint_analytics(
    question: Asked,
    runtime: CurrentRuntime,
    order: Annotated[
        Literal["requests", "error_rate", "p95"],
        Query(description="Most first. `p95` orders the 200 busiest endpoints of the period."),
    ] = "requests",
    limit: Rows = 20,
) -> EndpointsOut:
    """The endpoints that are asked most, fail most, or are slowest."""
    found = await runtime.analytics.breakdown(question, "endpoint", order=order, limit=limit)
    return EndpointsOut.of(found, counts_only=_counts_only(question))


@router.get("/v1/analytics/keys")
@permit(Permission.ANALYTICS_READ)
async def get_key_analytics(question: Asked, runtime: CurrentRuntime, limit: Rows = 20) -> KeysOut:
    """The busiest keys."""
    found = await _busiest(runtime, question, "key", limit)
    names = await runtime.analytics.key_names(question, _ids(found))
    return KeysOut.of(found, names, counts_only=_counts_only(question))


@router.get("/v1/analytics/customers")
@permit(Permission.ANALYTICS_READ)
async def get_customer_analytics(question: Asked, runtime: CurrentRuntime, limit: Rows = 20) -> CustomersOut:
    """The busiest customers."""
    found = await _busiest(runtime, question, "customer", limit)
    names = await runtime.analytics.customer_names(question, _ids(found))
    return CustomersOut.of(found, names, counts_only=_counts_only(question))


@router.get("/v1/analytics/countries")
@permit(Permission.ANALYTICS_READ)
async def get_country_analytics(question: Asked, runtime: CurrentRuntime, limit: Rows = 20) -> CountriesOut:
    """The countries that most checks came from, where checks tell it."""
    found = await _busiest(runtime, question, "country", limit)
    return CountriesOut.of(found, counts_only=_counts_only(question))


@router.get("/v1/analytics/ips", responses=errors("concurrency_exceeded"))
@permit(Permission.ANALYTICS_READ)
async def get_address_analytics(question: Asked, runtime: CurrentRuntime, limit: Rows = 20) -> AddressesOut:
    """The busiest addresses. What one of them did is in `/v1/analytics/requests`.

    They are summed by the hour. With a filter, and for at most six hours that are not whole ones and hold at most 20,000
    decisions, the decisions themselves are counted: the newest 100,000 of the period at most, and as long as they are kept.
    """
    return AddressesOut.of(await runtime.addresses.busiest(question, limit=limit))


async def _busiest(runtime: CurrentRuntime, question: Question, kind: Kind, limit: int) -> Breakdown:
    return await runtime.analytics.breakdown(question, kind, order="requests", limit=limit)


def _ids(found: Breakdown) -> list[str]:
    return [str(group[0]) for group, _ in found.groups]


def _counts_only(question: Question) -> bool:
    """Whether a class of status is asked for, of which only counts are kept."""
    return question.selection.status is not None
