"""Limits and quotas as people write them, to and from the values of ``core.model``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from apishield.api.problems import LIMIT
from apishield.api.schemas.common import Input, Output, TimeZone
from apishield.core.model import (
    MAX_UNITS,
    MAX_WINDOW_SECONDS,
    SECOND_US,
    Algorithm,
    Concurrency,
    FixedWindow,
    Limit,
    Mode,
    OnStoreFailure,
    Quota,
    SlidingWindow,
    TokenBucket,
)
from apishield.core.rate_limiter.parse import parse_limit
from apishield.errors import Fault, ProblemError
from apishield.services.checks import MAX_LIMITS

FIRST_NAME = "default"
MAX_TIMEOUT_SECONDS = 86_400

LimitText = Annotated[str, Field(examples=["100/minute", "10/second burst 20"])]
Units = Annotated[int, Field(ge=1, le=MAX_UNITS)]
LimitName = Annotated[str, StringConstraints(min_length=1, max_length=64)]  # the services see to the characters
UnitName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


_PERIOD_NAMES = {"day": "daily", "month": "monthly"}


class _Common(Input):
    """What every limit may say besides its numbers."""

    name: LimitName | None = Field(None, description="Kept over changes: a limit that keeps its name keeps its state.")
    unit: UnitName = Field("requests", description="What is counted: `requests`, or a unit of the checks' `cost`.")
    mode: Literal["enforce", "shadow"] = "enforce"
    on_store_failure: Literal["local", "allow", "deny"] = Field(
        "local", description="While the counters can't be reached: this node's share, all, or nothing."
    )
    charge_refused: bool = Field(False, description="Whether a refused request is charged to this limit too.")

    def _limit(self, name: str, algorithm: Any) -> Limit:
        return Limit(
            id="",
            name=self.name or name,
            algorithm=algorithm,
            unit=self.unit,
            mode=Mode(self.mode),
            on_store_failure=OnStoreFailure(self.on_store_failure),
            charge_refused=self.charge_refused,
        )


class WindowLimit(_Common):
    """`requests` in each aligned window (fixed), or in any interval of that length (sliding)."""

    strategy: Literal["fixed_window", "sliding_window"]
    requests: Units
    window_seconds: int = Field(ge=1, le=MAX_WINDOW_SECONDS)

    def limit(self, name: str) -> Limit:
        """The value inside; ``name`` where none is given."""
        kind = FixedWindow if self.strategy == "fixed_window" else SlidingWindow
        return self._limit(name, kind(self.requests, self.window_seconds * SECOND_US))


class BucketLimit(_Common):
    """`requests` each window on average, `burst` at once (default: `requests`)."""

    strategy: Literal["token_bucket"]
    requests: Units
    window_seconds: int = Field(ge=1, le=MAX_WINDOW_SECONDS)
    burst: Units | None = None

    def limit(self, name: str) -> Limit:
        """The value inside; ``name`` where none is given."""
        burst = self.requests if self.burst is None else self.burst
        return self._limit(name, TokenBucket(self.requests, self.window_seconds * SECOND_US, burst))


class ConcurrencyLimit(_Common):
    """`requests` at the same time; a slot that nobody releases frees itself after `timeout_seconds`."""

    strategy: Literal["concurrency"]
    requests: Units
    timeout_seconds: int = Field(ge=1, le=MAX_TIMEOUT_SECONDS)

    def limit(self, name: str) -> Limit:
        """The value inside; ``name`` where none is given."""
        return self._limit(name, Concurrency(self.requests, self.timeout_seconds * SECOND_US))


def _expand(value: object) -> object:
    """The long form of ``value``, where it is a text such as ``100/minute``."""
    if isinstance(value, str):
        try:
            return long_form(parse_limit(value))
        except ValueError as error:
            raise PydanticCustomError(f"{LIMIT}text", "{why}", {"why": str(error)}) from None
    if not isinstance(value, dict):
        raise PydanticCustomError(
            f"{LIMIT}type", 'a limit is an object with a strategy, or a text such as "100/minute"'
        )
    return value


def _strategy(value: Any) -> str | None:
    strategy = value.get("strategy") if isinstance(value, dict) else value.strategy
    return f"{LIMIT}{strategy}" if isinstance(strategy, str) else None


_STRATEGIES = "fixed_window, sliding_window, token_bucket or concurrency"
LimitIn = Annotated[
    Annotated[WindowLimit, Tag(f"{LIMIT}fixed_window")]
    | Annotated[WindowLimit, Tag(f"{LIMIT}sliding_window")]
    | Annotated[BucketLimit, Tag(f"{LIMIT}token_bucket")]
    | Annotated[ConcurrencyLimit, Tag(f"{LIMIT}concurrency")],
    Discriminator(
        _strategy,
        custom_error_type=f"{LIMIT}strategy",
        custom_error_message=f"must be {_STRATEGIES}",
    ),
    BeforeValidator(_expand, json_schema_input_type=WindowLimit | BucketLimit | ConcurrencyLimit | LimitText),
]


class _ShownLimit(Output):
    """What every limit and quota has in an answer. An answer shows what is stored, and judges nothing of it."""

    name: str
    unit: str = Field(description="What is counted: `requests`, or a unit of the checks' `cost`.")
    mode: Literal["enforce", "shadow"]
    on_store_failure: Literal["local", "allow", "deny"] = Field(
        description="While the counters can't be reached: this node's share, all, or nothing."
    )


class _ShownRateLimit(_ShownLimit):
    charge_refused: bool = Field(description="Whether a refused request is charged to this limit too.")


class WindowLimitOut(_ShownRateLimit):
    """`requests` in each aligned window (fixed), or in any interval of that length (sliding)."""

    strategy: Literal["fixed_window", "sliding_window"]
    requests: int
    window_seconds: int


class BucketLimitOut(_ShownRateLimit):
    """`requests` each window on average, `burst` at once."""

    strategy: Literal["token_bucket"]
    requests: int
    window_seconds: int
    burst: int


class ConcurrencyLimitOut(_ShownRateLimit):
    """`requests` at the same time; a slot that nobody releases frees itself after `timeout_seconds`."""

    strategy: Literal["concurrency"]
    requests: int
    timeout_seconds: int


LimitOut = Annotated[WindowLimitOut | BucketLimitOut | ConcurrencyLimitOut, Field(discriminator="strategy")]


class QuotaOut(_ShownLimit):
    """`limit` units in each calendar day or month of `time_zone`."""

    period: Literal["day", "month"]
    limit: int
    time_zone: str


class QuotaLimit(Input):
    """`limit` units in each calendar day or month of `time_zone`."""

    name: LimitName | None = None
    period: Literal["day", "month"]
    limit: Units
    unit: UnitName = "requests"
    time_zone: TimeZone = Field("UTC", examples=["Europe/Berlin"])
    mode: Literal["enforce", "shadow"] = "enforce"
    on_store_failure: Literal["local", "allow", "deny"] = "local"

    def limits(self) -> list[Limit]:
        """The value inside."""
        return [
            Limit(
                id="",
                name=self.name or f"{_PERIOD_NAMES[self.period]}_{self.unit}",
                algorithm=Quota(self.limit, self.period, self.time_zone),
                unit=self.unit,
                mode=Mode(self.mode),
                on_store_failure=OnStoreFailure(self.on_store_failure),
            )
        ]


class ShortQuota(Input):
    """The short form: requests in each calendar month or day, UTC."""

    monthly_requests: Units | None = None
    daily_requests: Units | None = None

    def limits(self) -> list[Limit]:
        """The values inside."""
        quotas = []
        if self.monthly_requests is not None:
            quotas += QuotaLimit(period="month", limit=self.monthly_requests).limits()
        if self.daily_requests is not None:
            quotas += QuotaLimit(period="day", limit=self.daily_requests).limits()
        return quotas


def _quota_form(value: Any) -> str | None:
    if isinstance(value, list):
        return f"{LIMIT}list"
    if isinstance(value, dict) and value:
        return f"{LIMIT}short" if value.keys() <= {"monthly_requests", "daily_requests"} else f"{LIMIT}quota"
    return None


_QUOTA_EXAMPLE = '{"monthly_requests": 500000} or {"period": "month", "limit": 500000}'
_OneQuota = Annotated[
    Annotated[ShortQuota, Tag(f"{LIMIT}short")] | Annotated[QuotaLimit, Tag(f"{LIMIT}quota")],
    Discriminator(_quota_form, custom_error_type=f"{LIMIT}form", custom_error_message=f"a quota is {_QUOTA_EXAMPLE}"),
]
QuotaIn = Annotated[
    Annotated[ShortQuota, Tag(f"{LIMIT}short")]
    | Annotated[QuotaLimit, Tag(f"{LIMIT}quota")]
    | Annotated[list[_OneQuota], Field(max_length=MAX_LIMITS), Tag(f"{LIMIT}list")],
    Discriminator(
        _quota_form, custom_error_type=f"{LIMIT}form", custom_error_message=f"a quota is {_QUOTA_EXAMPLE}, or a list"
    ),
]


def rate_limits(one: LimitIn | None, many: Sequence[LimitIn] | None) -> tuple[Limit, ...]:
    """The limits of ``rate_limit`` (short for a list of one) or ``rate_limits``; unnamed ones are named by their place.

    Raises ``invalid_limit`` where both are given.
    """
    if one is not None and many is not None:
        message = "rate_limit is short for a list of one; give one of the two"
        raise ProblemError("invalid_limit", f"rate_limits: {message}.", faults=[Fault("/rate_limits", message)])
    given = [one] if one is not None else list(many or ())
    return tuple(
        item.limit(FIRST_NAME if place == 1 else f"limit-{place}") for place, item in enumerate(given, start=1)
    )


def quotas(given: QuotaIn | None) -> tuple[Limit, ...]:
    """The quotas of ``quota``."""
    forms = given if isinstance(given, list) else [given] if given is not None else []
    return tuple(limit for form in forms for limit in form.limits())


def long_form(algorithm: Algorithm) -> dict[str, Any]:
    """The fields of ``algorithm`` as the long form has them."""
    match algorithm:
        case FixedWindow(requests, window_us):
            return {"strategy": "fixed_window", "requests": requests, "window_seconds": window_us // SECOND_US}
        case SlidingWindow(requests, window_us):
            return {"strategy": "sliding_window", "requests": requests, "window_seconds": window_us // SECOND_US}
        case TokenBucket(requests, window_us, burst):
            seconds = window_us // SECOND_US
            return {"strategy": "token_bucket", "requests": requests, "window_seconds": seconds, "burst": burst}
        case Concurrency(requests, timeout_us):
            return {"strategy": "concurrency", "requests": requests, "timeout_seconds": timeout_us // SECOND_US}
        case Quota(requests, period, time_zone):
            return {"period": period, "limit": requests, "time_zone": time_zone}


def limit_out(limit: Limit) -> dict[str, Any]:
    """A rate limit as an answer shows it; it can be sent back as it is."""
    return quota_out(limit) | {"charge_refused": limit.charge_refused}


def quota_out(limit: Limit) -> dict[str, Any]:
    """A quota as an answer shows it; it can be sent back as it is."""
    return {
        "name": limit.name,
        **long_form(limit.algorithm),
        "unit": limit.unit,
        "mode": limit.mode.value,
        "on_store_failure": limit.on_store_failure.value,
    }
