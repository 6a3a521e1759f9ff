"""What became of allowed requests, on its way to the service: kept in memory, bounded, sent behind the responses."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from apishield.client.models import Report

CAPACITY = 10_000
BATCH = 500


class ReportQueue:
    """The reports of one process. When it is full the oldest is dropped, and counted in ``dropped``."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._reports: deque[Report] = deque()
        self._capacity = capacity
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: Report) -> None:
        """Takes in a report."""
        if len(self._reports) >= self._capacity:
            self._reports.popleft()
            self.dropped += 1
        self._reports.append(report)

    def take(self, count: int = BATCH) -> list[Report]:
        """Takes out the oldest ``count``."""
        return [self._reports.popleft() for _ in range(min(count, len(self._reports)))]

    def put_back(self, reports: Sequence[Report]) -> None:
        """Puts reports that could not be sent back to the front; what no longer fits is dropped, oldest first."""
        room = self._capacity - len(self._reports)
        kept = reports[max(0, len(reports) - room) :] if room > 0 else ()
        self.dropped += len(reports) - len(kept)
        self._reports.extendleft(reversed(kept))
