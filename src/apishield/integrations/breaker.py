"""When to stop asking a service that does not answer, and when to try again.

Closed, every request asks. After one failure it opens: nobody asks, so that nobody waits. Once the pause is over, one
probe is let through, beside the requests; it closes the breaker, or opens it for twice as long.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 8.0


class Breaker:
    """The breaker of one process. ``clock`` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open_until = 0.0
        self._pause_seconds = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the service is taken for gone."""
        return self._pause_seconds > 0

    def claim_probe(self) -> bool:
        """Whether the caller is the one who shall probe now; it then says ``succeeded`` or ``failed``."""
        if self._probing or not self.is_open or self._clock() < self._open_until:
            return False
        self._probing = True
        return True

    def abandon_probe(self) -> None:
        """Gives a claimed probe back without a result, so that the next caller may make it."""
        self._probing = False

    def failed(self) -> bool:
        """Notes a failure; true where it opened the breaker. Failures of requests that were already under way count once."""
        if self.is_open and not self._probing:
            return False
        opened = not self.is_open
        self._pause_seconds = min(self._pause_seconds * 2 or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._open_until = self._clock() + self._pause_seconds
        self._probing = False
        return opened

    def succeeded(self) -> bool:
        """Notes an answer; true where it closed the breaker."""
        closed = self.is_open
        self._pause_seconds = 0.0
        self._probing = False
        return closed
