"""Whether what decides is there: noticed by the requests, said once in the log, looked after beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Literal

from apishield.core.decision import Decision
from apishield.errors import APIShieldError
from apishield.integrations.answers import without_service
from apishield.integrations.breaker import Breaker

log = logging.getLogger("apishield")

OnError = Literal["allow", "deny"]


class Availability:
    """Of one service or store, for one process. ``clock`` gives seconds that only grow.

    ``name`` is how the log calls it, ``allowing`` what the log says that ``on_error="allow"`` makes of requests.
    """

    def __init__(
        self, name: str, on_error: OnError, clock: Callable[[], float], *, allowing: str = "allowed unchecked"
    ) -> None:
        self.breaker = Breaker(clock)
        self.fallback: Decision = without_service(on_error)
        self._name = name
        self._meanwhile = allowing if on_error == "allow" else "refused"
        self._probes: set[asyncio.Task[None]] = set()

    @property
    def is_gone(self) -> bool:
        """Whether nobody shall ask, and ``fallback`` is the decision."""
        return self.breaker.is_open

    def failed(self, error: Exception, *, by_mistake: bool = False) -> None:
        """Notes a failure; ``by_mistake`` is one that waiting does not mend, such as a wrong key."""
        if self.breaker.failed():
            level = logging.ERROR if by_mistake else logging.WARNING
            log.log(level, "%s fails; requests are %s until it answers: %s", self._name, self._meanwhile, error)

    def answered(self) -> None:
        """Notes an answer."""
        if self.breaker.succeeded():
            log.warning("%s answers again; requests are checked", self._name)

    def probe(self, ask: Callable[[], Awaitable[object]], timeout_seconds: float) -> None:
        """Where a look is due, asks beside the requests, so that none of them waits for it."""
        if self.breaker.claim_probe():
            task = asyncio.get_running_loop().create_task(self._look(ask, timeout_seconds), context=Context())
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _look(self, ask: Callable[[], Awaitable[object]], timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                await ask()
        except (TimeoutError, APIShieldError):
            self.breaker.failed()
        except BaseException:
            self.breaker.abandon_probe()
            raise
        else:
            self.answered()
