"""Single decisions: a tenant's receipt, and what the refused party may know."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from apishield.analytics.rollup import as_units, settled
from apishield.api.schemas.common import Output, Timestamp, example
from apishield.api.times import to_rfc3339
from apishield.core.events import DEGRADED, PEEK, TEST, DecisionEvent, Refusal
from apishield.core.model import SECOND_US
from apishield.core.records import Environment
from apishield.errors import PROBLEM_TYPE_BASE, PROBLEMS
from apishield.services.analytics.decisions import Recent, Shown, endpoint_of, status_of
from apishield.services.analytics.ways_out import way_out
from apishield.stores.sql.ledger.stored import StoredDecision

_ID = "dec_01k84edib9e008000100000001cgk2pu574e73g"
_LIMIT: dict[str, Any] = {
    "name": "default",
    "strategy": "sliding_window",
    "unit": "requests",
    "limit": 1000,
    "remaining": 0,
    "window_seconds": 60,
    "retry_after_seconds": 12.4,
    "until": "2026-11-23T14:00:12.523456Z",
}
_DECISION: dict[str, Any] = {
    "id": _ID,
    "at": "2026-11-23T14:00:00.123456Z",
    "environment": "live",
    "allowed": False,
    "code": "rate_limited",
    "status": 429,
    "message": "The limit 'default' (1000 requests) is used up. Try again in 13 s.",
    "key_id": "key_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "customer_id": None,
    "method": "GET",
    "path": "/orders/17",
    "endpoint": "/orders/{id}",
    "ip": "203.0.113.7",
    "country": "DE",
    "user_agent": "curl/8.9",
    "attributes": {},
    "cost": {"requests": 1},
    "peek": False,
    "degraded": False,
    "violated": {**_LIMIT, "policy_id": None},
    "result": None,
    "settled_cost": None,
    "what_to_do": "Wait until the time that is named, then go on more slowly.",
    "documentation": f"{PROBLEM_TYPE_BASE}rate_limited.md",
}


class CountedOut(Output):
    """The limit that refused, as it stood then."""

    name: str
    strategy: str
    unit: str
    limit: int
    remaining: int
    window_seconds: float | None
    retry_after_seconds: float | None = Field(description="`null`: the cost can never fit.")
    until: Timestamp | None = Field(description="When the same request would have passed, if nothing else had come.")


class ViolatedOut(CountedOut):
    """The limit that refused, and the policy that it is of."""

    policy_id: str | None


class ResultOut(Output):
    """What the API answered, as it was reported."""

    at: Timestamp
    status: int
    latency_ms: float
    bytes: int | None


class DecisionOut(Output):
    """A decision: everything that is kept of it."""

    model_config = example(_DECISION)

    id: str
    at: Timestamp
    environment: Environment
    allowed: bool
    code: str
    status: int | None = Field(description="What the caller got; `null` where it was let through and nobody reported.")
    message: str
    key_id: str | None
    customer_id: str | None
    method: str | None
    path: str | None
    endpoint: str | None
    ip: str | None
    country: str | None
    user_agent: str | None
    attributes: dict[str, str]
    cost: dict[str, int] = Field(description="By unit: what was asked for, and charged where it was allowed.")
    peek: bool = Field(description="Asked at cost 0: a question, that no figure counts.")
    degraded: bool = Field(description="Decided without the store, or with an old view of the keys.")
    violated: ViolatedOut | None = Field(description="The limit that refused.")
    result: ResultOut | None
    settled_cost: dict[str, int] | None = Field(description="What it cost in the end; `null`: as it was asked.")
    what_to_do: str | None = Field(description="How to get out of the refusal.")
    documentation: str | None

    @classmethod
    def of(cls, shown: Shown) -> DecisionOut:
        """How ``shown`` is shown to its tenant."""
        stored, event = shown.stored, shown.stored.event
        return cls(
            id=shown.decision_id,
            at=to_rfc3339(event.at_us),
            environment=Environment.TEST if event.flags & TEST else Environment.LIVE,
            allowed=event.code == "ok",
            code=event.code,
            status=status_of(stored),
            message=event.message,
            key_id=event.key_id,
            customer_id=event.customer_id,
            method=event.method,
            path=event.path,
            endpoint=endpoint_of(event) or None,
            ip=event.address,
            country=event.country,
            user_agent=event.user_agent,
            attributes=event.attributes or {},
            cost=as_units(event.units),
            peek=bool(event.flags & PEEK),
            degraded=bool(event.flags & DEGRADED),
            violated=_violated(event),
            result=_result(stored),
            settled_cost=_settled(stored),
            what_to_do=None if event.code == "ok" else way_out(event.code),
            documentation=_documentation(event.code),
        )


class ReceiptOut(Output):
    """What whoever was refused may know: of their own request what they sent, of the limit what stopped them."""

    model_config = example(
        {
            "id": _ID,
            "at": "2026-11-23T14:00:00.123456Z",
            "allowed": False,
            "code": "rate_limited",
            "status": 429,
            "title": "Too many requests",
            "message": "The limit 'default' (1000 requests) is used up. Try again in 13 s.",
            "limit": _LIMIT,
            "what_to_do": "Wait until the time that is named, then go on more slowly.",
            "documentation": f"{PROBLEM_TYPE_BASE}rate_limited.md",
        }
    )

    id: str
    at: Timestamp
    allowed: bool
    code: str
    status: int
    title: str
    message: str
    limit: CountedOut | None
    what_to_do: str | None
    documentation: str | None

    @classmethod
    def of(cls, shown: Shown) -> ReceiptOut:
        """How ``shown`` is shown to anybody who has its id."""
        event = shown.stored.event
        problem = PROBLEMS.get(event.code)
        allowed = event.code == "ok"
        return cls(
            id=shown.decision_id,
            at=to_rfc3339(event.at_us),
            allowed=allowed,
            code=event.code,
            status=200 if allowed or problem is None else problem.status,
            title="The request was let through" if problem is None else problem.title,
            message=event.message,
            limit=None if event.refusal is None else CountedOut(**_counted(event, event.refusal)),
            what_to_do=None if allowed else way_out(event.code),
            documentation=_documentation(event.code),
        )


class RecentOut(Output):
    """Decisions, newest first."""

    model_config = example(
        {"data": [_DECISION], "has_more": False, "next_cursor": None, "scanned_to": "2026-11-22T14:00:00Z"}
    )

    data: list[DecisionOut]
    has_more: bool
    next_cursor: str | None
    scanned_to: Timestamp = Field(
        description="A page looks at 20,000 decisions at most: it may be short, and go on behind this time."
    )

    @classmethod
    def of(cls, recent: Recent) -> RecentOut:
        """How ``recent`` is shown."""
        return cls(
            data=[DecisionOut.of(shown) for shown in recent.items],
            has_more=recent.next_cursor is not None,
            next_cursor=recent.next_cursor,
            scanned_to=to_rfc3339(recent.scanned_to_us),
        )


def _counted(event: DecisionEvent, refusal: Refusal) -> dict[str, Any]:
    wait_us = refusal.retry_after_us
    return {
        "name": refusal.limit,
        "strategy": refusal.strategy,
        "unit": refusal.unit,
        "limit": refusal.ceiling,
        "remaining": refusal.remaining,
        "window_seconds": None if refusal.window_us is None else refusal.window_us / SECOND_US,
        "retry_after_seconds": None if wait_us is None else wait_us / SECOND_US,
        "until": None if wait_us is None else to_rfc3339(event.at_us + wait_us),
    }


def _violated(event: DecisionEvent) -> ViolatedOut | None:
    refusal = event.refusal
    return None if refusal is None else ViolatedOut(policy_id=refusal.policy_id, **_counted(event, refusal))


def _result(stored: StoredDecision) -> ResultOut | None:
    result = stored.result
    if result is None:
        return None
    return ResultOut(
        at=to_rfc3339(result.at_us), status=result.status, latency_ms=result.latency_us / 1000, bytes=result.bytes
    )


def _settled(stored: StoredDecision) -> dict[str, int] | None:
    settlement = stored.settlement
    return None if settlement is None else settled(stored.event.units, settlement)


def _documentation(code: str) -> str | None:
    return f"{PROBLEM_TYPE_BASE}{code}.md" if code in PROBLEMS else None
