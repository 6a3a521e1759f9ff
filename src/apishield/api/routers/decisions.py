"""Single decisions of a tenant: by their id, the latest ones, and live."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated

import msgspec
from fastapi import Depends, Path, Query, Request, Response

from apishield.api.auth import Authorizer, CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import PageParameters, Search
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.routers.analytics import Asked, EnvironmentQuery, FromQuery, OutcomeQuery, ToQuery
from apishield.api.schemas.decisions import DecisionOut, RecentOut
from apishield.api.streams import streamed
from apishield.api.times import to_rfc3339
from apishield.core.abuse_detector.addresses import parse_address
from apishield.core.records import Environment
from apishield.errors import Fault, ProblemError
from apishield.services.analytics.decisions import Narrowed
from apishield.services.analytics.live import LiveService, Tick
from apishield.services.analytics.questions import Filters, Question

router = control_router("Decisions")

_is_status = re.compile(r"[1-5][0-9]{2}", re.ASCII).fullmatch


def _requests(
    actor: CurrentActor,
    runtime: CurrentRuntime,
    from_: FromQuery = None,
    to: ToQuery = None,
    key_id: Search | None = None,
    customer_id: Search | None = None,
    endpoint: Search | None = None,
    method: Search | None = None,
    outcome: OutcomeQuery = None,
    status: Annotated[Search | None, Query(description="A status or a class: `404`, `5xx`.", examples=["5xx"])] = None,
    country: Search | None = None,
    ip: Annotated[Search | None, Query(description="One address.", examples=["203.0.113.7"])] = None,
    environment: EnvironmentQuery = Environment.LIVE,
) -> tuple[Question, Narrowed]:
    exact = status is not None and _is_status(status) is not None
    filters = Filters(key_id, customer_id, endpoint, method, outcome, None if exact else status, country, environment)
    address = parse_address(ip) if ip is not None else None
    if ip is not None and address is None:
        message = f"{ip[:64]!a} is no IP address"
        raise ProblemError("validation_failed", f"ip: {message}.", faults=[Fault("?ip", message)])
    question = runtime.analytics.question(actor, filters, from_=from_, to=to)
    return question, Narrowed(address.text if address else None, int(status) if exact and status else None)


AskedRequests = Annotated[tuple[Question, Narrowed], Depends(_requests)]


@router.get("/v1/analytics/requests", responses=errors("invalid_cursor", "concurrency_exceeded"))
@permit(Permission.ANALYTICS_READ)
async def list_requests(asked: AskedRequests, runtime: CurrentRuntime, page: PageParameters) -> RecentOut:
    """The latest decisions, newest first, as long as single decisions are kept."""
    question, narrowed = asked
    return RecentOut.of(await runtime.decisions.recent(question, narrowed, page))


@router.get("/v1/decisions/{decision_id}")
@permit(Permission.ANALYTICS_READ)
async def get_decision(
    decision_id: Annotated[str, Path(max_length=100)], actor: CurrentActor, runtime: CurrentRuntime
) -> DecisionOut:
    """The receipt of a decision: which rule, what was counted, until when, how to get out, and what became of it."""
    return DecisionOut.of(await runtime.decisions.find(actor, decision_id))


@router.get(
    "/v1/analytics/live",
    response_class=Response,
    responses={
        **errors("concurrency_exceeded"),
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    },
)
@permit(Permission.ANALYTICS_READ)
async def follow_live(question: Asked, request: Request, runtime: CurrentRuntime) -> Response:
    """Server-sent events: each second `totals` since the last, and up to 20 of the decisions as `request`.

    `from` and `to` are ignored. A stream ends after ten minutes; whoever listens opens it again (browsers do so). It ends
    within a second or so where its token is revoked or expires, or its tenant is suspended, and where nobody reads it.
    """
    live = runtime.live
    authorizer: Authorizer = request.app.state.authorizer
    pieces = _events(live, question, lambda: authorizer.still_holds(request.scope, Permission.ANALYTICS_READ))
    return streamed(
        request,
        pieces,
        "text/event-stream",
        _NO_BUFFER,
        live.places.admitted(question.tenant_id),
        patience_seconds=_READ_WITHIN_SECONDS,
    )


_NO_BUFFER = {"X-Accel-Buffering": "no"}  # Nginx would collect a stream before it passes it on


_READ_WITHIN_SECONDS = 15.0  # who does not read for so long loses the place


async def _events(live: LiveService, question: Question, may_listen: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    yield b"retry: 2000\n\n"
    async with aclosing(live.follow(question, may_listen)) as ticks:
        async for tick in ticks:
            yield _event(tick)


def _event(tick: Tick) -> bytes:
    """One tick as server-sent events; a comment, which keeps the connection open, where nothing is known."""
    if tick.sums is None:
        return b": the ledger can't be read now\n\n"
    totals = {
        "at": to_rfc3339(tick.at_us),
        "requests": tick.sums.requests,
        "allowed": tick.sums.allowed,
        "refused": tick.sums.refused,
    }
    parts = [b"event: totals\ndata: " + msgspec.json.encode(totals) + b"\n\n"]
    parts += [
        b"event: request\ndata: " + DecisionOut.of(shown).model_dump_json().encode() + b"\n\n"
        for shown in reversed(tick.sample)
    ]
    return b"".join(parts)
