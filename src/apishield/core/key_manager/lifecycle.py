"""The life of a key: active, disabled, expired, revoked; and of a rotated secret.

Revoked is for ever, so it is said before expired; expired before disabled, as enabling the key would not help.
"""

from __future__ import annotations

from typing import Literal

from apishield.core.model import SECOND_US
from apishield.core.records import Key

Status = Literal["active", "disabled", "revoked", "expired"]

MAX_GRACE_SECONDS = 604_800
FOR_EVER_US = 1 << 62

_REFUSALS: dict[Status, str | None] = {
    "active": None,
    "disabled": "key_disabled",
    "revoked": "key_revoked",
    "expired": "key_expired",
}


def status(key: Key, now_us: int) -> Status:
    """The state of a key at ``now_us``; from the very instant of its expiry it is expired."""
    if key.revoked_at_us is not None:
        return "revoked"
    if key.expires_at_us is not None and now_us >= key.expires_at_us:
        return "expired"
    return "active" if key.enabled else "disabled"


def refusal(key: Key, now_us: int) -> str | None:
    """The verdict's code for a key that may not be used at ``now_us``; ``None`` where it may."""
    return _REFUSALS[status(key, now_us)]


def usable_until_us(key: Key) -> int:
    """Until when the key, as it is, may be used: until its expiry, or for ever; 0 where it may not be used at all."""
    if key.revoked_at_us is not None or not key.enabled:
        return 0
    return FOR_EVER_US if key.expires_at_us is None else key.expires_at_us


def grace_end_us(now_us: int, grace_seconds: int, key_expires_at_us: int | None) -> int:
    """When a rotated secret stops to work: after the grace, never past the key's own expiry."""
    end_us = now_us + grace_seconds * SECOND_US
    return end_us if key_expires_at_us is None else min(end_us, key_expires_at_us)
