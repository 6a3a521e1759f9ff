"""The stores under test, each with a clock that the test owns, called as if they were synchronous."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from apishield.core.counter_keys import counter_key, record_key
from apishield.core.model import Algorithm, Counter, Limit, Verdict
from apishield.core.ports import CounterStore, Hold
from apishield.stores.memory import MemoryStore
from apishield.stores.redis import RedisStore
from tests.support.clock import START_US, ManualClock

T = TypeVar("T")
PATIENT_MS = 10_000  # a busy machine is no failure here
_worlds = itertools.count()


class Target:
    """A store of counters whose time the test owns. Each ``world`` is a tenant that nothing has happened to."""

    def __init__(self, store: CounterStore, clock: ManualClock, runner: asyncio.Runner) -> None:
        self.store = store
        self.clock = clock
        self._runner = runner
        self.tenant_id = ""
        self.new_world()

    def new_world(self) -> None:
        """Forgets the past, and sets the clock back to the start."""
        self.tenant_id = f"ten_{next(_worlds)}"
        self.clock.now_us = START_US
        if isinstance(self.store, MemoryStore):
            self.run(self.store.close())
            self.store = MemoryStore(self.clock)

    def run(self, pending: Awaitable[T]) -> T:
        """Waits for ``pending``."""

        async def wait() -> T:
            return await pending

        return self._runner.run(wait())

    def counter(self, name: str, rule: Algorithm, **more: object) -> Counter:
        """The counter of a limit called ``name`` in this world."""
        limit = Limit(id=f"lim_{name}", name=name, algorithm=rule, **more)  # type: ignore[arg-type]
        return Counter(counter_key(self.tenant_id, "live", limit, {"key": "key_1"}), limit)

    def record_key(self, check: int) -> str:
        """The key of the record of a check of this world."""
        return record_key(self.tenant_id, f"dec_{check}")

    def decide(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "dec_1", hold: Hold | None = None
    ) -> Verdict:
        """Decides one check."""

        async def ask() -> Verdict:
            verdict = self.store.decide(counters, costs, check_id, hold)
            return verdict if isinstance(verdict, Verdict) else await verdict

        return self._runner.run(ask())


@contextmanager
def memory_target() -> Iterator[Target]:
    """The memory store."""
    clock = ManualClock()
    with asyncio.Runner() as runner:
        yield Target(MemoryStore(clock), clock, runner)


@contextmanager
def redis_target(url: str) -> Iterator[Target]:
    """The store in the Redis at ``url``, one server or a Cluster."""
    clock = ManualClock()
    store = RedisStore(url, timeout_ms=PATIENT_MS, test_clock=clock)
    with asyncio.Runner() as runner:
        target = Target(store, clock, runner)
        yield target
        target.run(store.close())
