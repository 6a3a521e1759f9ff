"""Blocks and allows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from apishield.api.schemas.common import Input, Output, Timestamp, example
from apishield.api.times import optional_rfc3339, to_rfc3339
from apishield.core.records import Block
from apishield.errors import Fault, ProblemError
from apishield.services.blocks import BlockDraft, Kind

KINDS = ("ip", "cidr", "key_id", "country", "asn")
MAX_DURATION_SECONDS = 10 * 366 * 86_400

Text = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class BlockCreate(Input):
    """What is blocked, or spared: exactly one of `ip`, `cidr`, `key_id`, `country` and `asn`."""

    model_config = example({"ip": "1.2.3.4", "reason": "scraping", "duration_seconds": 3600})

    ip: Text | None = None
    cidr: Text | None = Field(None, examples=["10.0.0.0/8"])
    key_id: Text | None = None
    country: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2}$")] | None = Field(
        None, description="ISO 3166-1 alpha-2.", examples=["AQ"]
    )
    asn: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    reason: Annotated[str, StringConstraints(max_length=500)] = ""
    duration_seconds: Annotated[int, Field(ge=1, le=MAX_DURATION_SECONDS)] | None = Field(
        None, description="`null` is permanent."
    )

    def draft(self, action: Literal["block", "allow"]) -> BlockDraft:
        """The value inside. Raises ``validation_failed`` where nothing, or more than one thing, is named."""
        subjects: dict[Kind, str | int | None] = {
            "ip": self.ip,
            "cidr": self.cidr,
            "key_id": self.key_id,
            "country": self.country,
            "asn": self.asn,
        }
        given = [(kind, value) for kind, value in subjects.items() if value is not None]
        if len(given) != 1:
            message = f"give exactly one of {', '.join(KINDS)}"
            faults = [Fault(f"/{kind}", message) for kind, _ in given[1:]] or [Fault("", message)]
            raise ProblemError(
                "validation_failed", f"{len(given) or 'None'} of them is given; {message}.", faults=faults
            )
        kind, value = given[0]
        return BlockDraft(
            kind=kind, value=str(value), action=action, reason=self.reason, duration_seconds=self.duration_seconds
        )


class BlockOut(Output):
    """A block or an allow. Of what is blocked (`ip`, `cidr`, `key_id`, `country`, `asn`) exactly one is set."""

    model_config = example(
        {
            "id": "blk_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "ip": "1.2.3.4",
            "cidr": None,
            "key_id": None,
            "country": None,
            "asn": None,
            "reason": "scraping",
            "source": "manual",
            "rule": None,
            "active": True,
            "created_at": "2026-11-23T14:00:00.123456Z",
            "expires_at": "2026-11-23T15:00:00.123456Z",
        }
    )

    id: str
    ip: str | None
    cidr: str | None
    key_id: str | None
    country: str | None
    asn: int | None
    reason: str
    source: Literal["manual", "auto"]
    rule: str | None
    active: bool
    created_at: Timestamp
    expires_at: Timestamp | None

    @classmethod
    def of(cls, block: Block, now_us: int) -> BlockOut:
        """How ``block`` is shown."""
        value: Any = int(block.value.upper().removeprefix("AS")) if block.kind == "asn" else block.value
        return cls(
            **dict.fromkeys(KINDS) | {block.kind: value},
            id=block.id,
            reason=block.reason,
            source=block.source,
            rule=block.rule,
            active=block.expires_at_us is None or block.expires_at_us > now_us,
            created_at=to_rfc3339(block.created_at_us),
            expires_at=optional_rfc3339(block.expires_at_us),
        )
