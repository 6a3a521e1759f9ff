"""The body of a refusal, the same from the middleware and from every gateway: a problem document (RFC 9457)."""

from __future__ import annotations

import msgspec

from apishield.core.decision import Decision
from apishield.errors import PROBLEM_TYPE_BASE, PROBLEMS, Problem

PROBLEM_MEDIA_TYPE = "application/problem+json"


class ProblemDocument(msgspec.Struct, omit_defaults=True, rename={"kind": "type"}):
    """What the refused caller reads."""

    kind: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    decision_id: str = ""
    retry_after: float | None = None


def refusal_body(decision: Decision, instance: str, request_id: str) -> bytes:
    """The problem document of ``decision``, which was not to allow; ``instance`` is the path that was asked for."""
    problem = PROBLEMS.get(decision.code) or Problem(decision.status, "The request was refused")
    return msgspec.json.encode(
        ProblemDocument(
            kind=f"{PROBLEM_TYPE_BASE}{decision.code}.md",
            title=problem.title,
            status=decision.status,
            detail=decision.message,
            instance=instance,
            code=decision.code,
            request_id=request_id,
            decision_id=decision.decision_id,
            retry_after=decision.retry_after,
        )
    )
