"""Time that a test owns."""

from __future__ import annotations

SECOND_US = 1_000_000
START_US = 1_795_000_000 * SECOND_US  # some moment in November 2026


class ManualClock:
    """A ``Clock`` that stands still until it is moved."""

    def __init__(self, now_us: int = START_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> int:
        """Moves on by ``seconds`` and returns the new time in microseconds."""
        self.now_us += round(seconds * SECOND_US)
        return self.now_us
