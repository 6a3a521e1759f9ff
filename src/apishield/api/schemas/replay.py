"""Replays: what a policy would have done to recorded traffic."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET
from pydantic import Field, StringConstraints

from apishield.analytics.periods import parse_instant
from apishield.api.schemas.common import Input, Output, Timestamp, example
from apishield.api.schemas.keys import LIMIT_EXAMPLE
from apishield.api.schemas.limits import LimitIn, LimitOut, limit_out
from apishield.api.schemas.policies import UNNAMED, Cost, MatchIn, MatchOut, Per, match_out
from apishield.api.times import optional_rfc3339, to_rfc3339
from apishield.core.replay_report import ReplayJob, ReplayReport
from apishield.errors import Fault, ProblemError
from apishield.services.replay import ReplayDraft

PolicyIdText = Annotated[str, StringConstraints(pattern=r"^pol_[0-9a-v]{26}$")]
InstantText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=40),
    Field(examples=["now-24h", "2026-11-22T00:00:00Z"]),
]
_POLICY_ID = "pol_06dnd0g2v5v7h3m8k1q0p2r4t6"


class ReplayCreate(Input):
    """Which policy is replayed, over which period. What is given besides `policy` takes the place of the policy's own."""

    model_config = example({"policy": _POLICY_ID, "limit": "30/minute", "from": "now-24h"})

    policy: PolicyIdText | None = Field(None, description="A policy of yours, as it is or with other numbers.")
    limit: LimitIn | None = Field(None, description="The limit that is tried out; without a `policy` it is needed.")
    match: MatchIn | None = Field(None, description="Which checks it applies to (default: the policy's, else all).")
    per: Per | None = Field(None, description="What it counts by (default: the policy's, else `key`).")
    cost: Cost | None = Field(None, description="What a request is charged, times its own cost.")
    from_: InstantText = Field(alias="from", description="RFC 3339, or `now-24h` (`s m h d w`).")
    to: InstantText = Field("now", description="The period ends right before.")

    def draft(self, now_us: int) -> ReplayDraft:
        """The value inside. Raises 422 where an instant is none."""
        return ReplayDraft(
            policy_id=self.policy,
            from_us=_instant("/from", self.from_, now_us),
            to_us=_instant("/to", self.to, now_us),
            limit=UNSET if self.limit is None else self.limit.limit(UNNAMED),
            match=UNSET if self.match is None else self.match.match(),
            per=UNSET if self.per is None else tuple(self.per),
            cost=UNSET if self.cost is None else self.cost,
        )


def _instant(pointer: str, text: str, now_us: int) -> int:
    try:
        return parse_instant(text, now_us)
    except ValueError as error:
        raise ProblemError(
            "validation_failed", f"{pointer[1:]}: {error}", faults=[Fault(pointer, str(error))]
        ) from None


class ReplaySubjectOut(Output):
    """Who would have been refused."""

    subject: dict[str, str]
    would_refuse: int
    first_at: Timestamp
    last_at: Timestamp


class ReplayHourOut(Output):
    """One hour, UTC."""

    at: Timestamp
    of: int
    would_refuse: int


class ReplayResultOut(Output):
    """What the policy would have done."""

    decisions: int = Field(
        description="All that were recorded in the period; what only looked (cost 0) is not among them."
    )
    refused_already: int = Field(description="Refused by something else, so that the policy would not have been asked.")
    of: int = Field(description="To so many the policy applies.")
    would_refuse: int
    not_judged: int = Field(
        description="Of these, let through unasked: more counters lived at once than a replay holds."
    )
    unit: str
    asked: int = Field(description="`of`, in the limit's unit.")
    refused: int = Field(description="`would_refuse`, in the limit's unit.")
    refused_subjects: int = Field(description="How many subjects would have been refused; counted up to 50,000.")
    subjects: list[ReplaySubjectOut] = Field(description="The 100 that would have been refused most.")
    hours: list[ReplayHourOut] = Field(description="Hours in which the policy would have been asked.")
    first_refused_at: Timestamp | None
    last_refused_at: Timestamp | None

    @classmethod
    def of_report(cls, report: ReplayReport) -> ReplayResultOut:
        """How ``report`` is shown."""
        return cls(
            decisions=report.decisions,
            refused_already=report.refused_already,
            of=report.of,
            would_refuse=report.would_refuse,
            not_judged=report.not_judged,
            unit=report.unit,
            asked=report.asked,
            refused=report.refused,
            refused_subjects=report.refused_subjects,
            subjects=[
                ReplaySubjectOut(
                    subject=refused.subject,
                    would_refuse=refused.would_refuse,
                    first_at=to_rfc3339(refused.first_us),
                    last_at=to_rfc3339(refused.last_us),
                )
                for refused in report.subjects
            ],
            hours=[
                ReplayHourOut(at=to_rfc3339(hour.at_us), of=hour.of, would_refuse=hour.would_refuse)
                for hour in report.hours
            ],
            first_refused_at=optional_rfc3339(report.first_refused_us),
            last_refused_at=optional_rfc3339(report.last_refused_us),
        )


class ReplayOut(Output):
    """A replay, under way or done."""

    model_config = example(
        {
            "id": "rpl_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "status": "done",
            "progress": 1.0,
            "error": None,
            "policy_id": _POLICY_ID,
            "match": {
                "methods": [],
                "path": "/v1/search*",
                "caller": "any",
                "scopes": [],
                "plan": None,
                "environment": None,
                "attributes": {},
            },
            "per": ["ip"],
            "limit": LIMIT_EXAMPLE | {"requests": 30},
            "cost": 1,
            "from": "2026-11-22T14:00:00Z",
            "to": "2026-11-23T14:00:00Z",
            "covered_from": "2026-11-22T14:00:00Z",
            "covered_to": "2026-11-23T14:00:00Z",
            "complete": True,
            "only_counted": {},
            "result": {
                "decisions": 104120,
                "refused_already": 312,
                "of": 88120,
                "would_refuse": 1204,
                "not_judged": 0,
                "unit": "requests",
                "asked": 88120,
                "refused": 1204,
                "refused_subjects": 37,
                "subjects": [
                    {
                        "subject": {"ip": "192.0.2.1"},
                        "would_refuse": 311,
                        "first_at": "2026-11-22T15:02:11.004Z",
                        "last_at": "2026-11-23T09:41:50.12Z",
                    }
                ],
                "hours": [{"at": "2026-11-22T15:00:00Z", "of": 88120, "would_refuse": 1204}],
                "first_refused_at": "2026-11-22T15:02:11.004Z",
                "last_refused_at": "2026-11-23T09:41:50.12Z",
            },
            "created_at": "2026-11-23T14:00:00.123456Z",
            "updated_at": "2026-11-23T14:00:00.923456Z",
        }
    )

    id: str
    status: Literal["running", "done", "failed", "cancelled"]
    progress: float = Field(description="How much of the period was looked at, 0 to 1.")
    error: str | None
    policy_id: str | None
    match: MatchOut
    per: list[str]
    limit: LimitOut
    cost: int
    from_: Timestamp = Field(alias="from")
    to: Timestamp
    covered_from: Timestamp = Field(description="Later than `from` where older decisions are no longer kept.")
    covered_to: Timestamp = Field(
        description="Earlier than `to` where that is yet to come, or a replay can't take more."
    )
    complete: bool = Field(description="Whether every decision of the period took part.")
    only_counted: dict[str, int] = Field(
        description="By code: decisions that were only counted, as in a flood, and so took no part."
    )
    result: ReplayResultOut | None
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, job: ReplayJob) -> ReplayOut:
        """How ``job`` is shown."""
        policy, report = job.policy, job.report
        return cls.model_validate(
            {
                "match": match_out(policy.match),
                "per": list(policy.per),
                "cost": policy.cost,
                "id": job.id,
                "status": job.status,
                "progress": job.progress,
                "error": job.error,
                "policy_id": policy.id or None,
                "limit": limit_out(policy.limit),
                "from": to_rfc3339(job.from_us),
                "to": to_rfc3339(job.to_us),
                "covered_from": to_rfc3339(job.covered_from_us),
                "covered_to": to_rfc3339(min(job.covered_to_us, job.to_us)),
                "complete": job.is_complete,
                "only_counted": job.only_counted,
                "result": None if report is None else ReplayResultOut.of_report(report),
                "created_at": to_rfc3339(job.created_at_us),
                "updated_at": to_rfc3339(job.updated_at_us),
            }
        )
