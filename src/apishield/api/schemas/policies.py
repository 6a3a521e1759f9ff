"""Policies: a limit, whom it applies to, what it counts by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field, StringConstraints, ValidationError

from apishield.api.problems import MAX_FAULTS, invalid
from apishield.api.schemas.common import Changes, Input, Instant, Name, Output, PlanName, Timestamp, example, unchanged
from apishield.api.schemas.keys import LIMIT_EXAMPLE, Scopes
from apishield.api.schemas.limits import LimitIn, LimitOut, limit_out
from apishield.api.times import optional_rfc3339, to_rfc3339
from apishield.core.model import MAX_UNITS, Mode
from apishield.core.records import Environment, Match, Override, Policy
from apishield.services import policies as service
from apishield.services.shadow import ShadowReport
from apishield.stores.sql.pagination import Page

MAX_OVERRIDES = 10_000
LISTED_OVERRIDES = 100
UNNAMED = ""  # the service then names the limit as its policy

Method = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,20}$")]
Part = Annotated[str, StringConstraints(pattern=r"^(ip|key|endpoint|tenant|customer|attr:[a-zA-Z0-9_.-]{1,64})$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
SubjectValue = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Attributes = Annotated[dict[Text, Text], Field(max_length=20)]
Cost = Annotated[int, Field(ge=1, le=MAX_UNITS, description="What a request is charged, times its own cost.")]
Per = Annotated[list[Part], Field(min_length=1, max_length=8, examples=[["ip"], ["key", "endpoint"]])]


class MatchIn(Input):
    """Which checks the policy applies to; what is left away matches all."""

    methods: Annotated[list[Method], Field(max_length=20)] = Field([])
    path: Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern="^/")] | None = Field(
        None, examples=["/v1/search*"]
    )
    caller: Literal["key", "anonymous", "any"] = "any"
    scopes: Scopes = Field([])
    plan: PlanName | None = None
    environment: Literal["live", "test"] | None = None
    attributes: Attributes = Field({})

    def match(self) -> Match:
        """The value inside."""
        return Match(
            methods=tuple(self.methods),
            path=self.path,
            caller=self.caller,
            scopes=tuple(self.scopes),
            plan=self.plan,
            environment=None if self.environment is None else Environment(self.environment),
            attributes=self.attributes,
        )


class OverrideIn(Input):
    """Another limit for one subject: exact before wildcard before default."""

    subject: Annotated[dict[Part, SubjectValue], Field(min_length=1, max_length=8)] = Field(
        description="Some of what the policy counts by. A part that is left away, or is `*`, may be anything.",
        examples=[{"ip": "192.0.2.1"}, {"key": "key_06dnd0g2v5v7h3m8k1q0p2r4t6", "endpoint": "*"}],
    )
    limit: LimitIn
    expires_at: Instant | None = None

    def override(self) -> Override:
        """The value inside."""
        return Override(subject=self.subject, limit=self.limit.limit(UNNAMED), expires_at_us=self.expires_at)


Overrides = Annotated[
    list[Any],
    Field(max_length=MAX_OVERRIDES),
    BeforeValidator(
        lambda value: value, json_schema_input_type=Annotated[list[OverrideIn], Field(max_length=MAX_OVERRIDES)]
    ),
]
"""As they were sent: thousands are read where they hold nobody up (``read_overrides``)."""


def read_overrides(sent: Sequence[Any]) -> tuple[Override, ...]:
    """The values inside. Raises 422 with the first faults that are found."""
    found: list[dict[str, Any]] = []
    overrides: list[Override] = []
    for place, item in enumerate(sent):
        try:
            overrides.append(OverrideIn.model_validate(item).override())
        except ValidationError as error:
            found += [{**fault, "loc": ("body", "overrides", place, *fault["loc"])} for fault in error.errors()]
            if len(found) >= MAX_FAULTS:
                break
    if found:
        raise invalid(found)
    return tuple(overrides)


class PolicyCreate(Input):
    """A new policy."""

    model_config = example(
        {"name": "Search per address", "match": {"path": "/v1/search*"}, "per": ["ip"], "limit": "30/minute"}
    )

    name: Name
    match: MatchIn = MatchIn()
    per: Per
    limit: LimitIn
    cost: Cost = 1
    mode: Literal["enforce", "shadow"] = "enforce"
    enabled: bool = True
    overrides: Overrides = Field([])

    def draft(self) -> service.PolicyDraft:
        """The value inside."""
        return service.PolicyDraft(**_inside(dict(self)))


class PolicyChanges(Changes):
    """What changes of a policy. Numbers change under live traffic and keep their state."""

    model_config = example({"limit": "120/minute", "mode": "shadow"})

    name: Name = unchanged()
    match: MatchIn = unchanged()
    per: Per = unchanged()
    limit: LimitIn = unchanged()
    cost: Cost = unchanged()
    mode: Literal["enforce", "shadow"] = unchanged()
    enabled: bool = unchanged()
    overrides: Overrides = unchanged()

    def changes(self) -> service.PolicyChanges:
        """The value inside."""
        return service.PolicyChanges(**_inside(self.given()))


def _inside(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the fields of a policy have inside."""
    return {name: _CONVERTED[name](value) if name in _CONVERTED else value for name, value in given.items()}


_CONVERTED: Mapping[str, Callable[[Any], Any]] = {
    "match": MatchIn.match,
    "per": tuple,
    "limit": lambda limit: limit.limit(UNNAMED),
    "mode": Mode,
    "overrides": read_overrides,
}


class MatchOut(Output):
    """Which checks the policy applies to."""

    methods: list[str]
    path: str | None
    caller: Literal["key", "anonymous", "any"]
    scopes: list[str]
    plan: str | None
    environment: Literal["live", "test"] | None
    attributes: dict[str, str]


class OverrideOut(Output):
    """Another limit for one subject."""

    subject: dict[str, str]
    limit: LimitOut
    expires_at: Timestamp | None


class PolicyOut(Output):
    """A policy."""

    model_config = example(
        {
            "id": "pol_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "name": "anonymous",
            "match": {
                "methods": [],
                "path": None,
                "caller": "anonymous",
                "scopes": [],
                "plan": None,
                "environment": None,
                "attributes": {},
            },
            "per": ["ip"],
            "limit": LIMIT_EXAMPLE | {"requests": 60},
            "cost": 1,
            "mode": "enforce",
            "enabled": True,
            "overrides": [],
            "overrides_total": 0,
            "created_at": "2026-11-23T14:00:00.123456Z",
            "updated_at": "2026-11-23T14:00:00.123456Z",
        }
    )

    id: str
    name: str
    match: MatchOut
    per: list[str]
    limit: LimitOut
    cost: int
    mode: Literal["enforce", "shadow"]
    enabled: bool
    overrides: list[OverrideOut] = Field(description=f"All of them; in lists the first {LISTED_OVERRIDES}.")
    overrides_total: int = Field(description="How many there are.")
    created_at: Timestamp
    updated_at: Timestamp


def shown(policy: Policy) -> bytes:
    """How ``policy`` is shown, with all of its overrides, as JSON."""
    return msgspec.json.encode(_fields(policy, policy.overrides))


def listed(page: Page[Policy]) -> bytes:
    """How a page of policies is shown, each with its first overrides, as JSON."""
    data = [_fields(policy, policy.overrides[:LISTED_OVERRIDES]) for policy in page.items]
    return msgspec.json.encode(
        {"data": data, "has_more": page.next_cursor is not None, "next_cursor": page.next_cursor}
    )


def match_out(match: Match) -> dict[str, Any]:
    """How ``match`` is shown."""
    return {
        "methods": list(match.methods),
        "path": match.path,
        "caller": match.caller,
        "scopes": list(match.scopes),
        "plan": match.plan,
        "environment": None if match.environment is None else match.environment.value,
        "attributes": match.attributes,
    }


def _fields(policy: Policy, overrides: Sequence[Override]) -> dict[str, Any]:
    """The fields of ``PolicyOut``."""
    return {
        "id": policy.id,
        "name": policy.name,
        "match": match_out(policy.match),
        "per": list(policy.per),
        "limit": limit_out(policy.limit),
        "cost": policy.cost,
        "mode": policy.mode.value,
        "enabled": policy.enabled,
        "overrides": [
            {
                "subject": override.subject,
                "limit": limit_out(override.limit),
                "expires_at": optional_rfc3339(override.expires_at_us),
            }
            for override in overrides
        ],
        "overrides_total": len(policy.overrides),
        "created_at": to_rfc3339(policy.created_at_us),
        "updated_at": to_rfc3339(policy.updated_at_us),
    }


class ShadowDayOut(Output):
    """One day, UTC."""

    day: str
    would_refuse: int
    admitted: int


class ShadowSubjectOut(Output):
    """Who would have been refused, and how often at least."""

    subject: dict[str, str]
    would_refuse: int


class PolicyShadowOut(Output):
    """What a policy in shadow would have refused of the checks that were let through."""

    model_config = example(
        {
            "policy_id": "pol_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "since": "2026-11-22T09:30:00.123456Z",
            "would_refuse": 1204,
            "admitted": 88120,
            "days": [{"day": "2026-11-22", "would_refuse": 1204, "admitted": 88120}],
            "subjects": [{"subject": {"ip": "192.0.2.1"}, "would_refuse": 311}],
        }
    )

    policy_id: str
    since: Timestamp | None = Field(
        description="When the first of these was counted; a change of the policy begins anew."
    )
    would_refuse: int
    admitted: int
    days: list[ShadowDayOut]
    subjects: list[ShadowSubjectOut] = Field(description="Those that would have been refused most, of the last 7 days.")

    @classmethod
    def of(cls, report: ShadowReport) -> PolicyShadowOut:
        """How ``report`` is shown."""
        return cls(
            policy_id=report.policy_id,
            since=optional_rfc3339(report.since_us),
            would_refuse=report.would_refuse,
            admitted=report.admitted,
            days=[
                ShadowDayOut(day=day.day, would_refuse=day.would_refuse, admitted=day.admitted) for day in report.days
            ],
            subjects=[
                ShadowSubjectOut(subject=refused.subject, would_refuse=refused.would_refuse)
                for refused in report.subjects
            ],
        )
