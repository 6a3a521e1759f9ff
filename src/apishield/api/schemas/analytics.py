"""Figures of traffic: summaries, series over time, breakdowns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from apishield.analytics.reports import percent_change
from apishield.analytics.steps import SECOND_US, Step
from apishield.api.schemas.common import FRESH, Output, Timestamp, example
from apishield.api.times import to_rfc3339
from apishield.services.analytics.breakdowns import Breakdown
from apishield.services.analytics.figures import Figures
from apishield.services.analytics.planner import Covered
from apishield.services.analytics.summaries import PeriodSummary, Summary
from apishield.services.analytics.timeseries import GROUPINGS, GroupBy, Line, Timeseries
from apishield.stores.sql.analytics.names import CustomerName, KeyName
from apishield.stores.sql.analytics.plan import Group, Sums

_LATENCY = {"p50": 12.5, "p95": 84.0, "p99": 210.0}
_STATUSES = {"1xx": 0, "2xx": 1170, "3xx": 10, "4xx": 65, "5xx": 3}
_FIGURES: dict[str, Any] = {
    "requests": 1248,
    "allowed": 1234,
    "refused": 14,
    "results": 1180,
    "errors": 3,
    "error_rate": 0.00254,
    "statuses": _STATUSES,
    "latency": _LATENCY,
    "cost": {"requests": 1234, "tokens": 90210},
    "bytes": 524288,
}
_COVERED: dict[str, Any] = {"from": "2026-11-22T14:00:00Z", "to": "2026-11-23T14:00:00Z", "resolution": "minute"}
_KEY_ID = "key_06dnd0g2v5v7h3m8k1q0p2r4t6"
_CUSTOMER_ID = "cus_06dnd0g2v5v7h3m8k1q0p2r4t6"


class LatencyOut(Output):
    """Quantiles of the latency that was reported, in milliseconds, within 1 %; `null` where none was."""

    p50: float | None
    p95: float | None
    p99: float | None


class CountsOut(Output):
    """How many checks, and what became of them."""

    requests: int
    allowed: int
    refused: int


class FiguresOut(CountsOut):
    """What is known of a part of the traffic. With the filter `status` all but the counts is `null`."""

    results: int | None = Field(description="Allowed checks of which the API's answer was reported.")
    errors: int | None = Field(description="Results with a status of 500 or more.")
    error_rate: float | None = Field(description="`errors / results`; `null` where nothing was reported.")
    statuses: dict[str, int] | None = Field(description="By class: of results, and of refusals by their own status.")
    latency: LatencyOut
    cost: dict[str, int] | None = Field(description="What admitted checks cost, by unit.")
    bytes: int | None


def figures_fields(figures: Figures, *, counts_only: bool) -> dict[str, Any]:
    """The fields of ``FiguresOut``."""
    sums, latency = figures.sums, figures.latency
    fields: dict[str, Any] = {"requests": sums.requests, "allowed": sums.allowed, "refused": sums.refused}
    if counts_only:
        unknown = ("results", "errors", "error_rate", "statuses", "cost", "bytes")
        return {**fields, **dict.fromkeys(unknown), "latency": LatencyOut(p50=None, p95=None, p99=None)}
    return {
        **fields,
        "results": sums.results,
        "errors": sums.errors,
        "error_rate": sums.error_rate,
        "statuses": {f"{kind}xx": count for kind, count in enumerate(sums.statuses, 1)},
        "latency": LatencyOut(p50=latency.p50, p95=latency.p95, p99=latency.p99),
        "cost": {"requests": sums.cost, **figures.units},
        "bytes": sums.bytes,
    }


def counts_of(sums: Sums | None) -> CountsOut | None:
    """The counts of ``sums``, where there are some."""
    if sums is None:
        return None
    return CountsOut(requests=sums.requests, allowed=sums.allowed, refused=sums.refused)


class PeriodOut(Output):
    """The period that an answer is of, in whole minutes."""

    from_: Timestamp = Field(alias="from")
    to: Timestamp
    resolution: Step = Field(
        description="How exactly its edges are met: old minutes are kept as hours, old hours as days, which count whole."
    )


def covered_fields(covered: Covered) -> dict[str, Any]:
    """The fields of ``PeriodOut``."""
    period = covered.period
    return {"from": to_rfc3339(period.from_us), "to": to_rfc3339(period.to_us), "resolution": covered.resolution}


class PeriodSummaryOut(PeriodOut, FiguresOut):
    """The figures of one period."""

    refused_by_code: dict[str, int]
    active_keys: int = Field(description="Keys that made a check.")


class SummaryOut(PeriodSummaryOut):
    """A period, and the one of the same length right before it."""

    model_config = example(
        {
            **_COVERED,
            **_FIGURES,
            "refused_by_code": {"rate_limited": 12, "key_unknown": 2},
            "active_keys": 17,
            "previous": {
                **_COVERED,
                **_FIGURES,
                "from": "2026-11-21T14:00:00Z",
                "to": "2026-11-22T14:00:00Z",
                "refused_by_code": {"rate_limited": 14},
                "active_keys": 16,
            },
            "change": {"requests": 4.2, "allowed": 5.0, "refused": None},
            "fresh": True,
        }
    )

    previous: PeriodSummaryOut
    change: dict[str, float | None] = Field(
        description="By how many percent more than in the previous period; `null` where that had none."
    )
    fresh: bool = Field(description=FRESH)

    @classmethod
    def of(cls, summary: Summary, *, counts_only: bool) -> SummaryOut:
        """How ``summary`` is shown."""
        now, before = summary.now.figures.sums, summary.before.figures.sums
        change = {
            name: percent_change(getattr(now, name), getattr(before, name))
            for name in ("requests", "allowed", "refused")
        }
        previous = PeriodSummaryOut(**_period_fields(summary.before, counts_only=counts_only))
        return cls(
            **_period_fields(summary.now, counts_only=counts_only),
            previous=previous,
            change=change,
            fresh=summary.fresh,
        )


def _period_fields(summary: PeriodSummary, *, counts_only: bool) -> dict[str, Any]:
    return {
        **covered_fields(summary.covered),
        **figures_fields(summary.figures, counts_only=counts_only),
        "refused_by_code": dict(summary.refused_by_code),
        "active_keys": summary.active_keys,
    }


class PointOut(FiguresOut):
    """The figures of one step."""

    at: Timestamp = Field(description="When the step begins; it ends where the next begins.")


class GroupOut(Output):
    """What a line or a row is of; only what it is told apart by is not `null`."""

    key_id: str | None = None
    customer_id: str | None = None
    endpoint: str | None = None
    method: str | None = None
    country: str | None = None
    outcome: str | None = Field(None, description="The code of the decisions.")


class LineOut(Output):
    """One line of a chart."""

    group: GroupOut | None = Field(description="`null`: all of the traffic.")
    points: list[PointOut]


class CountPointOut(CountsOut):
    """The counts of one step."""

    at: Timestamp


class TimeseriesOut(PeriodOut):
    """Figures step by step."""

    model_config = example(
        {
            **_COVERED,
            "step": "hour",
            "time_zone": "Europe/Berlin",
            "group_by": "endpoint",
            "series": [
                {
                    "group": {"endpoint": "/orders/{id}", "method": "GET"},
                    "points": [{"at": "2026-11-22T14:00:00Z", **_FIGURES}],
                }
            ],
            "other": [{"at": "2026-11-22T14:00:00Z", "requests": 14, "allowed": 14, "refused": 0}],
        }
    )

    step: Step = Field(
        description="As asked for, or longer where the period begins among steps that are not kept any more."
    )
    time_zone: str
    group_by: str | None
    series: list[LineOut]
    other: list[CountPointOut] | None = Field(description="What is in no line; `null` where nothing is.")

    @classmethod
    def of(cls, found: Timeseries, *, time_zone: str, group_by: GroupBy | None, counts_only: bool) -> TimeseriesOut:
        """How ``found`` is shown."""
        times = [to_rfc3339(start_s * SECOND_US) for start_s in found.starts_s]
        return cls(
            **covered_fields(found.covered),
            step=found.step,
            time_zone=time_zone,
            group_by=group_by,
            series=[_line(line, times, group_by, counts_only=counts_only) for line in found.lines],
            other=None if found.other is None else _counts(found.other, times),
        )


def _line(line: Line, times: list[str], group_by: GroupBy | None, *, counts_only: bool) -> LineOut:
    points = [
        PointOut(at=at, **figures_fields(figures, counts_only=counts_only))
        for at, figures in zip(times, line.points, strict=True)
    ]
    return LineOut(group=_group(line.group, group_by), points=points)


def _counts(line: Line, times: list[str]) -> list[CountPointOut]:
    return [
        CountPointOut(at=at, requests=point.sums.requests, allowed=point.sums.allowed, refused=point.sums.refused)
        for at, point in zip(times, line.points, strict=True)
    ]


def _group(group: Group | None, group_by: GroupBy | None) -> GroupOut | None:
    if group is None or group_by is None:
        return None
    names = ["outcome" if column == "code" else column for column in GROUPINGS[group_by]]
    return GroupOut(**{name: str(value) or None for name, value in zip(names, group, strict=True)})


class BreakdownOut(PeriodOut):
    """Rows in order, and what they stand in relation to."""

    total: CountsOut
    other: CountsOut | None = Field(description="What is in no row; `null` where nothing is.")


def _breakdown_fields(found: Breakdown) -> dict[str, Any]:
    return {
        **covered_fields(found.covered),
        "total": counts_of(found.total),
        "other": counts_of(found.other),
    }


BREAKDOWN: dict[str, Any] = {
    **_COVERED,
    "total": {"requests": 1262, "allowed": 1248, "refused": 14},
    "other": {"requests": 14, "allowed": 14, "refused": 0},
}


class EndpointRowOut(FiguresOut):
    """One endpoint: a template of the catalogue, or a path with its numbers and ids as `{id}`; `null` where none was told."""

    endpoint: str | None
    method: str | None


class EndpointsOut(BreakdownOut):
    """Endpoints in order."""

    model_config = example({**BREAKDOWN, "data": [{"endpoint": "/orders/{id}", "method": "GET", **_FIGURES}]})

    data: list[EndpointRowOut]

    @classmethod
    def of(cls, found: Breakdown, *, counts_only: bool) -> EndpointsOut:
        """How ``found`` is shown."""
        rows = [
            EndpointRowOut(
                endpoint=str(endpoint) or None,
                method=str(method) or None,
                **figures_fields(figures, counts_only=counts_only),
            )
            for (endpoint, method), figures in found.groups
        ]
        return cls(**_breakdown_fields(found), data=rows)


class KeyRowOut(FiguresOut):
    """One key; `key_id` is `null` for callers without one (or with one that is none)."""

    key_id: str | None
    name: str | None
    hint: str | None
    customer_id: str | None


class KeysOut(BreakdownOut):
    """Keys, busiest first."""

    model_config = example(
        {
            **BREAKDOWN,
            "data": [
                {
                    "key_id": _KEY_ID,
                    "name": "Production Key",
                    "hint": "sk_live_Ab…9Zk2",
                    "customer_id": None,
                    **_FIGURES,
                }
            ],
        }
    )

    data: list[KeyRowOut]

    @classmethod
    def of(cls, found: Breakdown, names: Mapping[str, KeyName], *, counts_only: bool) -> KeysOut:
        """How ``found`` is shown, with what the keys are called now."""
        rows = []
        for (key_id,), figures in found.groups:
            known = names.get(str(key_id))
            rows.append(
                KeyRowOut(
                    key_id=str(key_id) or None,
                    name=known.name if known else None,
                    hint=known.hint if known else None,
                    customer_id=known.customer_id if known else None,
                    **figures_fields(figures, counts_only=counts_only),
                )
            )
        return cls(**_breakdown_fields(found), data=rows)


class CustomerRowOut(FiguresOut):
    """One customer; `customer_id` is `null` for keys that belong to none."""

    customer_id: str | None
    name: str | None
    external_id: str | None


class CustomersOut(BreakdownOut):
    """Customers, busiest first."""

    model_config = example(
        {
            **BREAKDOWN,
            "data": [{"customer_id": _CUSTOMER_ID, "name": "Initech", "external_id": "c-17", **_FIGURES}],
        }
    )

    data: list[CustomerRowOut]

    @classmethod
    def of(cls, found: Breakdown, names: Mapping[str, CustomerName], *, counts_only: bool) -> CustomersOut:
        """How ``found`` is shown, with what the customers are called now."""
        rows = []
        for (customer_id,), figures in found.groups:
            known = names.get(str(customer_id))
            rows.append(
                CustomerRowOut(
                    customer_id=str(customer_id) or None,
                    name=known.name if known else None,
                    external_id=known.external_id if known else None,
                    **figures_fields(figures, counts_only=counts_only),
                )
            )
        return cls(**_breakdown_fields(found), data=rows)


class CountryRowOut(FiguresOut):
    """One country; `null` where it is not known."""

    country: str | None


class CountriesOut(BreakdownOut):
    """Countries, busiest first."""

    model_config = example({**BREAKDOWN, "data": [{"country": "DE", **_FIGURES}]})

    data: list[CountryRowOut]

    @classmethod
    def of(cls, found: Breakdown, *, counts_only: bool) -> CountriesOut:
        """How ``found`` is shown."""
        rows = [
            CountryRowOut(country=str(country) or None, **figures_fields(figures, counts_only=counts_only))
            for (country,), figures in found.groups
        ]
        return cls(**_breakdown_fields(found), data=rows)
