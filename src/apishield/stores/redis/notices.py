"""Tells other nodes at once that something changed. A notice carries a number and no state: who hears it asks the database.

Notices only make changes fast. Lost ones do no harm: every node polls the change feed as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger("apishield.notices")

CHANNEL = "apishield:changes"
_PUBLISH_TIMEOUT_SECONDS = 0.25
_PAUSE_SECONDS = 1.0
_LISTEN_SECONDS = 5.0


class ChangeNotices:
    """Publishes and hears notices over ``client``, whose connections it does not share with the counters."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._task: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()

    def publish(self, sequence: int) -> None:
        """Sends a notice, behind: whoever made the change does not wait for it."""
        task = asyncio.create_task(self._publish(sequence))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    def start(self, heard: Callable[[], None]) -> None:
        """Calls ``heard`` at each notice, of this node's own too."""
        self._task = asyncio.create_task(self._listen(heard), name="notices")

    async def close(self) -> None:
        """Stops listening and lets go of the connections."""
        tasks = [*self._publishing, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _publish(self, sequence: int) -> None:
        try:
            async with asyncio.timeout(_PUBLISH_TIMEOUT_SECONDS):
                await self._client.publish(CHANNEL, sequence)
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("notice.lost", error=str(error))  # the others' poll finds the change within its interval

    async def _listen(self, heard: Callable[[], None]) -> None:
        failing = False
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(CHANNEL)
                    heard()  # something may have changed while nobody listened
                    failing = False
                    while True:
                        if await subscription.get_message(timeout=_LISTEN_SECONDS) is not None:
                            heard()
            except (RedisError, OSError, TimeoutError) as error:
                if not failing:
                    log.warning("notices.failing", error=f"{type(error).__name__}: {error}"[:300])
                failing = True
                await asyncio.sleep(_PAUSE_SECONDS)
