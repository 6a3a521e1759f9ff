"""A store of counters that is there or not, and a ledger of quotas that may be slow, for tests of what is done without them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from apishield.core.counter_keys import counter_key
from apishield.core.model import (
    Algorithm,
    Counter,
    Limit,
    Mode,
    Once,
    OnStoreFailure,
    Verdict,
)
from apishield.core.ports import CounterStore, Held, Hold
from apishield.errors import StoreUnavailable
from apishield.stores import breaker
from apishield.stores.memory import MemoryStore
from tests.support.clock import SECOND_US, ManualClock

MINUTE_US = 60 * SECOND_US


class Primary:
    """A store that is there or not."""

    def __init__(self, clock: ManualClock) -> None:
        self.inner = MemoryStore(clock)
        self.is_gone = False
        self.asked = 0
        self.resets = 0

    async def decide(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
    ) -> Verdict:
        self.asked += 1
        await self._answer()
        verdict = self.inner.decide(counters, costs, check_id, hold)
        return verdict if isinstance(verdict, Verdict) else await verdict

    def send(self) -> None:
        pass

    async def decide_once(
        self,
        once: Once,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        hold: Hold | None = None,
    ) -> Verdict:
        self.asked += 1
        await self._answer()
        verdict = self.inner.decide_once(once, counters, costs, check_id, hold)
        return verdict if isinstance(verdict, Verdict) else await verdict

    async def held(self, record_key: str) -> Held | None:
        await self._answer()
        return await self.inner.held(record_key)

    async def settle(self, record_key: str, held: Held, costs: Sequence[int], check_id: str) -> bool:
        await self._answer()
        return await self.inner.settle(record_key, held, costs, check_id)

    async def charge(self, counters: Sequence[Counter], costs: Sequence[int]) -> None:
        await self._answer()
        await self.inner.charge(counters, costs)

    async def release(self, counters: Sequence[Counter], costs: Sequence[int], check_id: str) -> None:
        await self._answer()
        await self.inner.release(counters, costs, check_id)

    async def reset(self, counters: Sequence[Counter]) -> None:
        self.resets += 1
        await self._answer()
        await self.inner.reset(counters)

    async def close(self) -> None:
        pass

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.is_gone:
            raise StoreUnavailable("gone")


class Ledger:
    """Durable use of quotas."""

    def __init__(self, used: int) -> None:
        self.used = used
        self.noted: list[int] = []
        self.is_slow = False
        self.asked = 0

    async def load(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        self.asked += 1
        if self.is_slow:
            await asyncio.Event().wait()
        return dict.fromkeys(counter_keys, self.used)

    def note(self, counter_key: str, period_start_us: int, used: int, at_us: int) -> None:
        self.noted.append(used)


def counter(
    rule: Algorithm, subject: str = "a", on: OnStoreFailure = OnStoreFailure.LOCAL, mode: Mode = Mode.ENFORCE
) -> Counter:
    limit = Limit(id=f"lim_{type(rule).__name__}_{on}", name="x", algorithm=rule, on_store_failure=on, mode=mode)
    return Counter(counter_key("ten_1", "live", limit, {"key": subject}), limit)


async def ask(store: CounterStore, *counters: Counter, cost: int = 1, check_id: str = "dec_1") -> Verdict:
    verdict = store.decide(counters, [cost] * len(counters), check_id)
    return verdict if isinstance(verdict, Verdict) else await verdict


async def admitted(store: CounterStore, *counters: Counter, checks: int = 100) -> int:
    return sum([(await ask(store, *counters, check_id=f"dec_{number}")).admitted for number in range(checks)])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes follow each other at once, and each failing check is a failure by itself."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0)
    monkeypatch.setattr(breaker, "ONE_FAILURE_SECONDS", -1)


@pytest.fixture
def primary(clock: ManualClock) -> Primary:
    return Primary(clock)


async def turns(count: int = 50) -> None:
    """Lets what runs behind go on."""
    for _ in range(count):
        await asyncio.sleep(0)
