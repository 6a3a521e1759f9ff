"""Reading your own writes: who asks about now waits, shortly, until what this node decided is in the ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

FRESH_WITHIN_SECONDS: Final = 1.0

Freshness = Callable[[float], Awaitable[bool]]
"""Waits, at most so many seconds, until what this node decided is in the ledger; whether it is."""


async def as_it_is(_seconds: float) -> bool:
    """Takes the ledger as it is."""
    return True
