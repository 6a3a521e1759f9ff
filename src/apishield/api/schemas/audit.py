"""The audit log."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from apishield.api.schemas.common import EXAMPLE_REQUEST_ID, Output, Timestamp, example
from apishield.api.times import to_rfc3339
from apishield.core.records import AuditEntry


class AuditEntryOut(Output):
    """One change: who, what, from where; before and after without secrets."""

    model_config = example(
        {
            "id": "aud_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "sequence": 17,
            "at": "2026-11-23T14:00:00.123456Z",
            "actor": "tok_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "action": "key.updated",
            "target": "key_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "before": {"enabled": True},
            "after": {"enabled": False},
            "address": "127.0.0.1",
            "request_id": EXAMPLE_REQUEST_ID,
            "mac": "5f2b…",
        }
    )

    id: str
    sequence: int
    at: Timestamp
    actor: str
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    address: str | None
    request_id: str | None
    mac: str = Field(description="Chains the entry to the one before; `apishield audit verify` checks it.")

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditEntryOut:
        """How ``entry`` is shown."""
        return cls(
            id=entry.id,
            sequence=entry.sequence,
            at=to_rfc3339(entry.at_us),
            actor=entry.actor,
            action=entry.action,
            target=entry.target,
            before=entry.before,
            after=entry.after,
            address=entry.address,
            request_id=entry.request_id,
            mac=entry.mac,
        )
