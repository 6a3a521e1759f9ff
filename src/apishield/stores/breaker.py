"""A breaker: after a few failures one server is left alone, and only a probe goes to it, behind, until one comes back.

Each server of a store has one of its own, so that whose server answers is not decided without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

FAILURES_TO_OPEN = 3
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
ONE_FAILURE_SECONDS = 0.005  # the checks of one call that fails are one failure


class Breaker:
    """Counts the failures of one server; ``is_open`` while it is left alone.

    ``answers`` asks the server once whether it is back; ``on_back`` is called when the server was used again after failures.
    """

    def __init__(self, answers: Callable[[], Awaitable[bool]], on_back: Callable[[], Awaitable[None]]) -> None:
        self.is_open = False
        self._answers = answers
        self._on_back = on_back
        self._failures = 0
        self._failed_at = 0.0
        self._healing: asyncio.Task[None] | None = None

    def failed(self) -> bool:
        """Takes note of a failure. Returns whether it opened the breaker."""
        now = asyncio.get_running_loop().time()
        if now - self._failed_at > ONE_FAILURE_SECONDS:  # since the last that counted: failures may never pause
            self._failures += 1
            self._failed_at = now
        if self._failures < FAILURES_TO_OPEN or self.is_open:
            return False
        self.is_open = True
        self._begin_healing()
        return True

    def succeeded(self) -> None:
        """Takes note that the server answered: failures before it were few, and are over."""
        if self._failures and not self.is_open:
            self._failures = 0
            self._begin_healing()

    async def close(self) -> None:
        """Ends the probing."""
        if self._healing is not None:
            self._healing.cancel()
            await asyncio.gather(self._healing, return_exceptions=True)

    def _begin_healing(self) -> None:
        if self._healing is None:
            self._healing = asyncio.get_running_loop().create_task(self._heal())

    async def _heal(self) -> None:
        try:
            if not self.is_open:
                await self._on_back()
            pause_seconds = FIRST_PAUSE_SECONDS
            while self.is_open:
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
                if await self._answers():
                    self._failures = 0
                    self.is_open = False
                    await self._on_back()  # where that fails often enough, the server is given up again
        finally:
            self._healing = None
