"""The one place where instants are written and read: RFC 3339 outside, integer microseconds since the Unix epoch inside."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from apishield.core.model import SECOND_US

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


def to_rfc3339(instant_us: int) -> str:
    """``instant_us`` in UTC, with a fraction only where there is one: ``2026-11-23T14:00:00Z``, ``…00.123456Z``."""
    text = (EPOCH + instant_us * MICROSECOND).isoformat(
        timespec="microseconds" if instant_us % SECOND_US else "seconds"
    )
    return f"{text.removesuffix('+00:00')}Z"


def from_rfc3339(text: str) -> int:
    """Microseconds since the Unix epoch. Raises ``ValueError``, in words for the world."""
    if _RFC_3339.fullmatch(text) is None:
        raise ValueError("must be a time as RFC 3339 has it, with an offset, such as 2026-11-23T14:00:00Z")
    try:
        return (datetime.fromisoformat(text.upper()) - EPOCH) // MICROSECOND
    except (ValueError, OverflowError):
        raise ValueError("there is no such day or time") from None


def optional_rfc3339(instant_us: int | None) -> str | None:
    """``instant_us`` in UTC, or ``None`` for never."""
    return None if instant_us is None else to_rfc3339(instant_us)
