"""``python -m tests.support.hammer URL LIMIT CHECKS``: checks one subject as fast as it can; prints how many were admitted."""

from __future__ import annotations

import asyncio
import sys

from apishield.core.counter_keys import counter_key
from apishield.core.model import Counter, Limit, SlidingWindow, Verdict
from apishield.stores.redis import RedisStore

TASKS = 32


async def main(url: str, limit: int, checks: int) -> int:
    store = RedisStore(url, timeout_ms=10_000)
    sliding = Limit(id="lim_1", name="x", algorithm=SlidingWindow(limit, 3_600_000_000))
    counter = Counter(counter_key("ten_1", "live", sliding, {"key": "key_1"}), sliding)

    async def hammer(times: int) -> int:
        admitted = 0
        for _ in range(times):
            verdict = store.decide([counter], [1])
            admitted += (verdict if isinstance(verdict, Verdict) else await verdict).admitted
        return admitted

    admitted = sum(await asyncio.gather(*(hammer(checks // TASKS) for _ in range(TASKS))))
    await store.close()
    return admitted


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))  # noqa: T201  read by the test
