"""Records that live for a while in this process: kept under a key, taken once, forgotten in time."""

from __future__ import annotations

import heapq

from apishield.core.model import SECOND_US
from apishield.core.ports import Held

FORGET_AT_ONCE = 16


class Records:
    """Holds of checks, for a store that keeps its counters in this process."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[Held, int]] = {}
        self._expiries: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._records)

    def put(self, key: str, held: Held, seconds: int) -> None:
        """Keeps ``held`` for ``seconds`` from when it was charged; forgets a few that are over."""
        now_us = held.charged_at_us
        for _ in range(FORGET_AT_ONCE):
            if not self._expiries or self._expiries[0][0] > now_us:
                break
            self._records.pop(heapq.heappop(self._expiries)[1], None)
        expires_us = now_us + seconds * SECOND_US
        self._records[key] = (held, expires_us)
        heapq.heappush(self._expiries, (expires_us, key))

    def get(self, key: str, now_us: int) -> Held | None:
        """The record, unless its time is over."""
        found = self._records.get(key)
        return found[0] if found is not None and now_us < found[1] else None

    def take(self, key: str, now_us: int) -> bool:
        """Takes the record away. Returns whether it was there."""
        there = self.get(key, now_us) is not None
        self._records.pop(key, None)
        return there

    def clear(self) -> None:
        """Forgets all."""
        self._records.clear()
        self._expiries.clear()
