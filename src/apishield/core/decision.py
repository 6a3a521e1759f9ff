"""The answer to a check: one value from which body, headers, event, metrics and receipt are rendered."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from apishield.core.model import MAX_UNITS
from apishield.core.records import Environment, Metadata

Cost = Annotated[int, msgspec.Meta(ge=0, le=MAX_UNITS)]
SettleWithin = Annotated[int, msgspec.Meta(ge=1, le=86_400)]
CheckId = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
UnitName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$(?!\n)")]
Costs = Annotated[dict[UnitName, Cost], msgspec.Meta(min_length=1, max_length=16)]
"""Units by name: as limits may name them, and no more than anybody counts."""


class CheckRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The question, as ``POST /v1/check`` and the gateways ask it. All fields are optional.

    ``cost`` is a number of requests, or units by name (``{"requests": 1, "tokens": 900}``); 0 only looks. Where it is
    absent the check costs what its endpoint says, else 1. With ``reserve`` it is an estimate, which a report settles within
    ``settle_within_seconds``. A ``check_id`` that was used within a minute gets the decision of then, and charges nothing.
    """

    api_key: str | None = None
    ip: str | None = None
    method: str | None = None
    path: str | None = None
    user_agent: str | None = None
    cost: Cost | Costs | None = None
    scopes: list[str] | None = None
    country: str | None = None
    attributes: dict[str, str] | None = None
    require_key: bool | None = None
    reserve: bool = False
    settle_within_seconds: SettleWithin = 3600
    check_id: CheckId | None = None


class KeyView(msgspec.Struct, frozen=True):
    """What a decision tells the API about the key that was used."""

    id: str
    name: str
    scopes: tuple[str, ...]
    environment: Environment
    customer_id: str | None
    metadata: Metadata


class LimitState(msgspec.Struct, frozen=True, gc=False):
    """One limit after the decision; ``reset_seconds`` until its window ends or until it is full again."""

    name: str
    policy_id: str | None
    strategy: str
    unit: str
    limit: int
    remaining: int
    window_seconds: float | None
    reset_seconds: float
    violated: bool


class Decision(msgspec.Struct, frozen=True, gc=False):
    """``allowed`` with status 200, or a denial: ``code`` stands in the catalogue of problems, ``message`` names the fix.

    ``retry_after`` is the seconds after which the same check would pass if nothing else came; ``None`` where it passes
    now or never. ``headers`` are those that the API should pass on to its caller.

    ``limits`` begins with the violated ones, those with the longest wait first, then those with the smallest part left. It and
    ``shadow`` list up to 20 each; ``limits_omitted`` says how many more had their say. The headers name up to 10.
    """

    allowed: bool
    code: str
    status: int
    message: str
    decision_id: str
    tenant_id: str
    key: KeyView | None
    limits: list[LimitState]
    shadow: list[LimitState]
    retry_after: float | None
    headers: dict[str, str]
    degraded: bool
    limits_omitted: int = 0


_encode: Final = msgspec.json.Encoder().encode


def in_json(value: Any) -> str:
    """``value`` as JSON."""
    return _encode(value).decode()


def inside_json(text: str) -> str:
    """``text`` as it stands between the quotes of a JSON string."""
    return in_json(text)[1:-1]


class Denial(msgspec.Struct, frozen=True, gc=False):
    """Why a step ends the verdict."""

    code: str
    message: str
