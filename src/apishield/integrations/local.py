"""Decisions without a service: limits of the app's own, by the core's algorithms, in memory or in a Redis.

Owns: what is counted by. Does not own: the algorithms and stores, which are the service's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from importlib.util import find_spec
from typing import Any, Literal

from apishield.client.models import Cost, Report
from apishield.clock import system_clock
from apishield.core.abuse_detector.addresses import parse_address
from apishield.core.counter_keys import limit_keys, text_of
from apishield.core.decision import Decision
from apishield.core.model import Counter, Limit, Verdict
from apishield.core.policies import Meter
from apishield.core.ports import Clock, CounterStore
from apishield.core.rate_limiter.parse import parse_limit
from apishield.core.rendering import Rendered, render
from apishield.errors import PROBLEMS, ConfigurationError, MissingExtra, StoreUnavailable
from apishield.integrations.answers import DEGRADED_HEADERS
from apishield.integrations.availability import Availability, OnError
from apishield.integrations.callers import Incoming
from apishield.stores.memory import MemoryStore

MEMORY_URL = "memory://"
PROBE_TIMEOUT_SECONDS = 1.0
NOBODY = "unknown"  # callers of whom no address is known share one counter

Subject = Callable[[Incoming, object], str | None]
"""What a request is counted by; ``None`` where it is not counted."""


class LocalGuard:
    """Decides by ``limits``, all or nothing, counting by ``per``."""

    def __init__(
        self,
        limits: Sequence[str],
        *,
        per: Literal["ip", "key"] | Callable[[Any], str | None],
        store_url: str,
        namespace: str,
        on_error: OnError,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or system_clock
        self._meters = [Meter(limit) for limit in _limits(limits)]
        self._keys = [limit_keys(namespace, "live", meter.limit) for meter in self._meters]
        self._subject_name, self._subject = _subject(per)
        self.availability = Availability("The store of the limits", on_error, time.monotonic)
        self._store_url = store_url
        self._memory = MemoryStore(self._clock, shared=False) if store_url == MEMORY_URL else None
        self._stores: dict[asyncio.AbstractEventLoop, CounterStore] = {}
        if self._memory is None:
            _check_redis(store_url)

    def check(
        self, incoming: Incoming, request: object, cost: Cost | None, *, reserve: bool = False
    ) -> Awaitable[Decision]:
        """Decides about a request (protocol ``Guard``). Reserves nothing: the option is the service's."""
        if cost is None:
            cost = 1
        if not isinstance(cost, int):
            raise ConfigurationError(
                f"cost is {cost!r}; a limit without a service counts requests, so give an integer."
            )
        return self._decide(self._subject(incoming, request), cost)

    async def _decide(self, subject: str | None, cost: int) -> Decision:
        if subject is None:
            return _decided(render([], Verdict(admitted=True, now_us=self._clock(), outcomes=[])))
        named = text_of({self._subject_name: subject})
        counters = [
            Counter(keys.prefix + named, meter.limit, None, keys.overflow)
            for keys, meter in zip(self._keys, self._meters, strict=True)
        ]
        if self.availability.is_gone:
            self.availability.probe(lambda: self._verdict(counters, 0), PROBE_TIMEOUT_SECONDS)
            return self.availability.fallback
        try:
            verdict = await self._verdict(counters, cost)
        except StoreUnavailable as error:
            self.availability.failed(error)
            return self.availability.fallback
        return _decided(render(self._meters, verdict), degraded=verdict.degraded)

    async def _verdict(self, counters: Sequence[Counter], cost: int) -> Verdict:
        verdict = self._store().decide(counters, [cost] * len(counters))
        return verdict if isinstance(verdict, Verdict) else await verdict

    def report(self, report: Report) -> None:
        """Keeps no reports: there is nobody to tell."""

    async def close(self) -> None:
        """Lets go of the running loop's connections. Counters in memory live on with the process."""
        store = self._stores.pop(asyncio.get_running_loop(), None)
        if store is not None:
            await store.close()

    def _store(self) -> CounterStore:
        if self._memory is not None:
            return self._memory
        loop = asyncio.get_running_loop()
        store = self._stores.get(loop)
        if store is None:
            for other in [other for other in self._stores if other.is_closed()]:
                del self._stores[other]
            store = self._stores[loop] = _redis_store(self._store_url)
        return store


def _decided(rendered: Rendered, *, degraded: bool = False) -> Decision:
    return Decision(
        allowed=rendered.code == "ok",
        code=rendered.code,
        status=200 if rendered.code == "ok" else PROBLEMS[rendered.code].status,
        message=rendered.message,
        decision_id="",
        tenant_id="",
        key=None,
        limits=rendered.limits(),
        shadow=rendered.shadow_limits(),
        retry_after=rendered.retry_after,
        headers=rendered.headers() | (DEGRADED_HEADERS if degraded else {}),
        degraded=degraded,
    )


def _limits(texts: Sequence[str]) -> list[Limit]:
    limits: dict[str, Limit] = {}
    for text in texts:
        name = " ".join(text.lower().split())
        try:
            algorithm = parse_limit(text)
        except ValueError as error:
            raise ConfigurationError(f"limit: {error}.") from None
        limits[name] = Limit(id=name, name=name, algorithm=algorithm)
    if not limits:
        raise ConfigurationError("limit is empty; give one such as '100/minute'.")
    return list(limits.values())


def _subject(per: str | Callable[[Any], str | None]) -> tuple[str, Subject]:
    if callable(per):
        count_by = per
        return "custom", lambda _, request: count_by(request)
    if per == "ip":
        return "ip", lambda incoming, _: _address(incoming)
    if per == "key":
        return "key", lambda incoming, _: _key(incoming)
    raise ConfigurationError(f"per is {per!r}; give 'ip', 'key', or a function that says what a request is counted by.")


def _address(incoming: Incoming) -> str:
    address = parse_address(incoming.ip) if incoming.ip is not None else None
    return NOBODY if address is None else address.counted


def _key(incoming: Incoming) -> str:
    if incoming.api_key is None:
        return f"ip:{_address(incoming)}"
    # A store is no place for credentials.
    return f"key:{blake2b(incoming.api_key.encode(), digest_size=16).hexdigest()}"


def _redis_store(url: str) -> CounterStore:
    from apishield.stores.redis.store import RedisStore  # noqa: PLC0415  an extra, loaded by who uses it

    return RedisStore(url)


def _check_redis(url: str) -> None:
    if not url.startswith(("redis://", "rediss://", "redis+", "rediss+", "unix://")):
        raise ConfigurationError(
            f"store is {url!r}; give 'memory://' or the URL of a Redis, such as 'redis://localhost:6379'."
        )
    if find_spec("redis") is None:
        raise MissingExtra("The client of Redis", "redis")
