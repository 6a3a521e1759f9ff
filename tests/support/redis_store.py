"""A store over the real Redis, a client that looks there past it, and counters of all kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import redis as redis_py

from apishield.core.counter_keys import counter_key
from apishield.core.model import (
    SECOND_US,
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Quota,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.core.ports import CounterStore
from apishield.stores.redis import RedisStore

MINUTE_US = 60 * SECOND_US
PATIENT_MS = 10_000
ALL: list[Algorithm] = [
    FixedWindow(5, MINUTE_US),
    SlidingWindow(5, MINUTE_US),
    TokenBucket(5, MINUTE_US, 5),
    Quota(5),
    Concurrency(5, MINUTE_US),
]


def counter(rule: Algorithm, subject: str = "a", tenant: str = "ten_1") -> Counter:
    """The counter of a limit that has this algorithm."""
    limit = Limit(id=f"lim_{type(rule).__name__}", name="x", algorithm=rule)
    return Counter(counter_key(tenant, "live", limit, {"key": subject}), limit)


async def decide(store: CounterStore, *counters: Counter, cost: int = 1, check_id: str = "dec_1") -> Verdict:
    verdict = store.decide(counters, [cost] * len(counters), check_id)
    return verdict if isinstance(verdict, Verdict) else await verdict


@pytest_asyncio.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """The store, more patient than a laden machine is slow."""
    store = RedisStore(redis_url, timeout_ms=PATIENT_MS)
    yield store
    await store.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis_py.Redis]:
    """Sees what is in that Redis, and does there what somebody else would."""
    with redis_py.Redis.from_url(redis_url) as client:
        yield client
