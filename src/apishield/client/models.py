"""What the service answers, as typed values. Fields that a newer service adds are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypedDict, TypeVar

import msgspec

from apishield.core import decision as core
from apishield.core.decision import Decision, KeyView, LimitState

T = TypeVar("T")

__all__ = ["Decision", "KeyView", "LimitState"]  # the same values as inside the service

Cost = int | Mapping[str, int]
LimitSpec = str | Mapping[str, Any]
"""A limit as the contract takes it: ``"100/minute"``, or ``{"strategy": …, "requests": …, "window_seconds": …}``."""


class CheckRequest(core.CheckRequest, frozen=True, kw_only=True, omit_defaults=True):
    """The question; all of it is optional, and what is left out is not sent."""


class CheckBatch(msgspec.Struct, frozen=True):
    """Up to 1,000 checks, decided in order."""

    checks: list[CheckRequest]


class DecisionBatch(msgspec.Struct, frozen=True):
    """The decisions, in the order of the checks."""

    results: list[Decision]


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an allowed request. ``cost`` settles what its check reserved."""

    decision_id: str
    status: int
    latency_ms: float
    bytes: int | None = None
    cost: int | dict[str, int] | None = None


class ReportBatch(msgspec.Struct, frozen=True):
    """Up to 1,000 reports."""

    events: list[Report]


class Released(msgspec.Struct, frozen=True):
    """Whether a charge and slots were given back; if not, ``reason`` (``not_reserved``, ``over``) and ``message`` say why."""

    released: bool
    reason: str | None = None
    message: str = ""


class ReportResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many reports were taken; ``rejected`` says which were not, and why.

    ``duplicates`` are those that the process which answered had been told before. Each decision's result counts once, whoever
    was told.
    """

    accepted: int = 0
    duplicates: int = 0
    rejected: list[Any] = []


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list; ``next_cursor`` asks for the next."""

    data: list[T]
    has_more: bool = False
    next_cursor: str | None = None


class APIKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key. ``key`` is its secret, given only where it is made or rotated."""

    id: str
    name: str
    hint: str = ""
    key: str | None = msgspec.field(default=None)
    kind: Literal["caller", "service"] = "caller"
    environment: Literal["live", "test"] = "live"
    status: str = "active"
    scopes: tuple[str, ...] = ()
    rate_limits: list[dict[str, Any]] = []
    quota: Any = None
    allowed_ips: tuple[str, ...] = ()
    customer_id: str | None = None
    metadata: dict[str, Any] = {}
    created_at: datetime | None = None
    expires_at: datetime | None = None
    previous_expires_at: datetime | None = None
    last_used_at: datetime | None = None

    def __repr__(self) -> str:
        """Without the secret, so that it reaches no log."""
        return f"APIKey(id={self.id!r}, name={self.name!r}, hint={self.hint!r}, status={self.status!r})"


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """An account. ``token`` and ``api_key`` are given only where it is made."""

    id: str
    name: str
    plan: str = ""
    status: str = "active"
    metadata: dict[str, Any] = {}
    created_at: datetime | None = None
    token: str | None = None
    api_key: APIKey | None = None

    def __repr__(self) -> str:
        """Without the secrets, so that they reach no log."""
        return f"Tenant(id={self.id!r}, name={self.name!r}, plan={self.plan!r}, status={self.status!r})"


class Customer(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a tenant sells its API to."""

    id: str
    name: str
    external_id: str | None = None
    email: str | None = None
    rate_limits: list[dict[str, Any]] = []
    created_at: datetime | None = None


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Who is refused."""

    id: str
    ip: str | None = None
    cidr: str | None = None
    key_id: str | None = None
    country: str | None = None
    asn: int | str | None = None
    reason: str = ""
    source: str = "manual"
    created_at: datetime | None = None
    expires_at: datetime | None = None


class PolicyReplay(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy would have done to recorded traffic. ``result`` is there once ``status`` is ``done``."""

    id: str
    status: str
    progress: float = 0.0
    error: str | None = None
    policy_id: str | None = None
    covered_from: datetime | None = None
    covered_to: datetime | None = None
    complete: bool = False
    only_counted: dict[str, int] = {}
    result: dict[str, Any] | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the catalogue. ``required_scopes`` is ``None`` where the method decides."""

    id: str
    method: str
    path: str
    required_scopes: tuple[str, ...] | None = None
    cost: int | dict[str, int] = 1
    login: bool = False
    created_at: datetime | None = None
    updated_at: datetime | None = None


class EndpointImport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the operations of a document; ``results`` has each, with ``errors`` where it failed."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    results: list[dict[str, Any]] = []


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A limit, whom it applies to, what it counts by."""

    id: str
    name: str
    match: dict[str, Any] = {}
    per: tuple[str, ...] = ()
    limit: dict[str, Any] = {}
    cost: int = 1
    mode: Literal["enforce", "shadow"] = "enforce"
    enabled: bool = True
    overrides: list[dict[str, Any]] = []
    created_at: datetime | None = None
    updated_at: datetime | None = None


class ShadowReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy in shadow would have refused of the checks that were let through, since its last change."""

    policy_id: str
    since: datetime | None = None
    would_refuse: int = 0
    admitted: int = 0
    days: list[dict[str, Any]] = []
    subjects: list[dict[str, Any]] = []


class KeyUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a key has used of its limits and its quota.

    ``fresh`` is false where the service could not make sure that ``totals`` hold all that it has just decided.
    """

    key_id: str
    rate_limits: list[dict[str, Any]] = []
    quota: dict[str, Any] | None = None
    totals: dict[str, int] = {}
    fresh: bool = True


class KeyFields(TypedDict, total=False):
    """What can be said of a key."""

    kind: Literal["caller", "service"]
    environment: Literal["live", "test"]
    scopes: list[str]
    rate_limit: LimitSpec | None
    rate_limits: list[LimitSpec]
    quota: Mapping[str, Any] | list[Mapping[str, Any]] | None
    expires_at: datetime | None
    allowed_ips: list[str]
    customer_id: str | None
    metadata: Mapping[str, Any]
    enabled: bool


class KeyChanges(KeyFields, total=False):
    """What can be changed of a key."""

    name: str


class CustomerFields(TypedDict, total=False):
    """What can be said of a customer."""

    external_id: str | None
    email: str | None
    rate_limits: list[LimitSpec]


class CustomerChanges(CustomerFields, total=False):
    """What can be changed of a customer."""

    name: str


class EndpointFields(TypedDict, total=False):
    """What can be said of an endpoint."""

    required_scopes: list[str] | None
    cost: Cost
    login: bool


class PolicyFields(TypedDict, total=False):
    """What can be said of a policy."""

    match: Mapping[str, Any]
    cost: int
    mode: Literal["enforce", "shadow"]
    enabled: bool
    overrides: list[Mapping[str, Any]]


class PolicyChanges(PolicyFields, total=False):
    """What can be changed of a policy."""

    name: str
    per: list[str]
    limit: LimitSpec


class BlockSubject(TypedDict, total=False):
    """Who is to be blocked: exactly one of these."""

    ip: str
    cidr: str
    key_id: str
    country: str
    asn: int
