"""Where the limits and quotas of a key stand."""

from __future__ import annotations

from pydantic import Field

from apishield.api.schemas.common import FRESH, Output, Timestamp, example
from apishield.api.times import to_rfc3339
from apishield.services.usage import KeyUsage, QuotaUsage

_QUOTA_EXAMPLE = {
    "name": "monthly_requests",
    "period": "2026-11",
    "unit": "requests",
    "limit": 500000,
    "used": 1234,
    "remaining": 498766,
    "resets_at": "2026-12-01T00:00:00Z",
}


_USED = "More than `limit` where a settled cost came to more than was reserved: it is charged even past the limit."


class LimitUsageOut(Output):
    """One rate limit."""

    name: str
    strategy: str
    unit: str
    limit: int
    remaining: int
    used: int = Field(description=_USED)
    window_seconds: float | None
    reset_seconds: float = Field(description="Until the window ends (fixed), or until it is full again.")


class QuotaUsageOut(Output):
    """One quota in its present period."""

    name: str
    period: str = Field(description="`2026-11`, or `2026-11-23` for a day, in the quota's time zone.")
    unit: str
    limit: int
    used: int = Field(description=_USED)
    remaining: int
    resets_at: Timestamp

    @classmethod
    def of(cls, quota: QuotaUsage) -> QuotaUsageOut:
        """How ``quota`` is shown."""
        return cls(
            name=quota.name,
            period=quota.period,
            unit=quota.unit,
            limit=quota.limit,
            used=quota.used,
            remaining=quota.remaining,
            resets_at=to_rfc3339(quota.resets_at_us),
        )


class TotalsOut(Output):
    """Checks of the key (UTC). `allowed` and `refused` are this month's."""

    today: int
    this_month: int
    allowed: int
    refused: int


class KeyUsageOut(Output):
    """What a key has used. Asking charges nothing."""

    model_config = example(
        {
            "key_id": "key_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "rate_limits": [
                {
                    "name": "default",
                    "strategy": "sliding_window",
                    "unit": "requests",
                    "limit": 1000,
                    "remaining": 958,
                    "used": 42,
                    "window_seconds": 60,
                    "reset_seconds": 31.5,
                }
            ],
            "quotas": [_QUOTA_EXAMPLE],
            "quota": _QUOTA_EXAMPLE,
            "totals": {"today": 42, "this_month": 1240, "allowed": 1234, "refused": 6},
            "fresh": True,
        }
    )

    key_id: str
    rate_limits: list[LimitUsageOut]
    quotas: list[QuotaUsageOut]
    quota: QuotaUsageOut | None = Field(description="The first of `quotas`.")
    totals: TotalsOut
    fresh: bool = Field(description=FRESH)

    @classmethod
    def of(cls, usage: KeyUsage) -> KeyUsageOut:
        """How ``usage`` is shown."""
        quotas = [QuotaUsageOut.of(quota) for quota in usage.quotas]
        return cls(
            key_id=usage.key_id,
            rate_limits=[LimitUsageOut.model_validate(limit, from_attributes=True) for limit in usage.rate_limits],
            quotas=quotas,
            quota=quotas[0] if quotas else None,
            totals=TotalsOut.model_validate(usage.totals, from_attributes=True),
            fresh=usage.fresh,
        )
