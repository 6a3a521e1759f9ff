"""Usage to take away, as CSV or JSON, of any length."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query, Request, Response

from apishield.analytics.steps import SECOND_US
from apishield.api.openapi import errors
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.routers.analytics import Asked
from apishield.api.streams import streamed
from apishield.errors import Fault, ProblemError
from apishield.services.analytics.export import Row, Subject, Table
from apishield.services.analytics.service import AnalyticsService

router = control_router("Analytics")

GroupBy = Literal["key", "customer", "endpoint", "day", "key,day", "customer,day", "endpoint,day"]

_COUNTS = ("requests", "allowed", "refused", "results", "errors", "bytes")
_READ_WITHIN_SECONDS = 60.0  # who takes nothing for so long loses the place
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MEDIA = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_EXAMPLE = {
    "key_id": "key_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "key_name": "Production Key",
    "customer_id": "",
    **dict.fromkeys(_COUNTS, 0),
    "requests": 1248,
    "allowed": 1234,
    "refused": 14,
    "cost": {"requests": 1234, "tokens": 90210},
}


@router.get(
    "/v1/usage/export",
    response_class=Response,
    responses={
        **errors("concurrency_exceeded"),
        200: {
            "content": {
                "text/csv": {"schema": {"type": "string"}},
                "application/json": {
                    "schema": {"type": "array", "items": {"type": "object"}},
                    "example": [_EXAMPLE],
                },
            }
        },
    },
)
@permit(Permission.ANALYTICS_READ)
async def export_usage(
    question: Asked,
    request: Request,
    runtime: CurrentRuntime,
    format_: Annotated[Literal["csv", "json"], Query(alias="format")] = "csv",
    group_by: Annotated[GroupBy, Query(description="What a row is of; days are those of `time_zone`.")] = "key",
) -> Response:
    """What was used, a row for each key, customer, endpoint or day. It is streamed, whatever its length.

    In CSV a text that a spreadsheet would take for a formula begins with an apostrophe. An export that breaks off is not
    complete: its JSON does not end. It breaks off where nobody reads for a minute; three of a tenant may be under way at once.
    """
    if question.selection.status is not None:
        message = "can't be exported by: costs are not told apart by status. Leave it away"
        raise ProblemError("validation_failed", f"status {message}.", faults=[Fault("?status", message)])
    subject, by_day = _grouping(group_by)
    table = await runtime.analytics.export(question, subject, by_day=by_day)
    write = _csv if format_ == "csv" else _json
    name = _file_name(question.period.from_us, question.period.to_us, group_by, format_)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    room = runtime.analytics.exports.admitted(question.tenant_id)
    pieces = write(runtime.analytics, table)
    return streamed(request, pieces, _MEDIA[format_], headers, room, patience_seconds=_READ_WITHIN_SECONDS)


def _grouping(group_by: GroupBy) -> tuple[Subject | None, bool]:
    match group_by:
        case "key" | "key,day":
            subject: Subject | None = "key"
        case "customer" | "customer,day":
            subject = "customer"
        case "endpoint" | "endpoint,day":
            subject = "endpoint"
        case _:
            subject = None
    return subject, group_by.endswith("day")


def _file_name(from_us: int, to_us: int, group_by: str, format_: str) -> str:
    first, last = (
        datetime.fromtimestamp(instant_us // SECOND_US, UTC).strftime("%Y%m%dT%H%MZ") for instant_us in (from_us, to_us)
    )
    return f"usage-by-{group_by.replace(',', '-')}-{first}-{last}.{format_}"


async def _csv(analytics: AnalyticsService, table: Table) -> AsyncGenerator[bytes, None]:
    units = ["requests", *table.units]
    yield _lines([[*table.labels, *_COUNTS, *(f"cost_{unit}" for unit in units)]])  # at once, before anything is summed
    async with aclosing(analytics.export_pages(table)) as pages:
        async for page in pages:
            yield _lines([[*map(plain_cell, row.labels), *_counts(row), *_costs(row, units)] for row in page])


def _lines(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)  # RFC 4180
    return text.getvalue().encode()


def plain_cell(text: str) -> str:
    """``text`` so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


async def _json(analytics: AnalyticsService, table: Table) -> AsyncGenerator[bytes, None]:
    units = ["requests", *table.units]
    yield b"["
    async with aclosing(analytics.export_pages(table)) as pages:
        first = True
        async for page in pages:
            rows = b",\n".join(msgspec.json.encode(_object(row, table, units)) for row in page)
            if rows:
                yield rows if first else b",\n" + rows
                first = False
    yield b"]\n"


def _object(row: Row, table: Table, units: Sequence[str]) -> dict[str, Any]:
    return {
        **dict(zip(table.labels, row.labels, strict=True)),
        **dict(zip(_COUNTS, _counts(row), strict=True)),
        "cost": dict(zip(units, _costs(row, units), strict=True)),
    }


def _counts(row: Row) -> list[int]:
    sums = row.sums
    return [sums.requests, sums.allowed, sums.refused, sums.results, sums.errors, sums.bytes]


def _costs(row: Row, units: Sequence[str]) -> list[int]:
    return [row.sums.cost, *(row.units.get(unit, 0) for unit in units[1:])]
