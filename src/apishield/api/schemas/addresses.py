"""Addresses, and how many checks came from each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apishield.analytics.steps import Step
from apishield.api.schemas.analytics import BREAKDOWN, CountsOut, PeriodOut, covered_fields
from apishield.api.schemas.common import example
from apishield.services.analytics.addresses import Addresses


class AddressRowOut(CountsOut):
    """One address; of IPv6 the /64."""

    ip: str


class AddressesOut(PeriodOut):
    """Addresses, busiest first, as long as single decisions are kept. Checks that named no address are in none of the sums."""

    model_config = example(
        {
            **BREAKDOWN,
            "resolution": "hour",
            "complete": True,
            "data": [{"ip": "203.0.113.7", "requests": 1248, "allowed": 1234, "refused": 14}],
        }
    )

    resolution: Literal[Step.MINUTE, Step.HOUR] = Field(
        description="`hour`: whole hours are summed. `minute`: the decisions of the period were counted."
    )
    complete: bool = Field(
        description="`false` where `from` is later than was asked for: what is older was too much to look at, or is not kept."
    )
    data: list[AddressRowOut]
    total: CountsOut
    other: CountsOut | None

    @classmethod
    def of(cls, found: Addresses) -> AddressesOut:
        """How ``found`` is shown."""
        requests = found.total.requests - sum(each.requests for each in found.addresses)
        refused = found.total.refused - sum(each.refused for each in found.addresses)
        return cls(
            **covered_fields(found.covered),
            complete=found.complete,
            data=[
                AddressRowOut(ip=each.address, **_of_address(each.requests, each.refused)) for each in found.addresses
            ],
            total=CountsOut(**_of_address(found.total.requests, found.total.refused)),
            other=CountsOut(**_of_address(requests, refused)) if requests > 0 else None,
        )


def _of_address(requests: int, refused: int) -> dict[str, int]:
    return {"requests": requests, "allowed": requests - refused, "refused": refused}
