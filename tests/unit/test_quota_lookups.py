"""Many who ask the ledger at once ask it once, and whoever gives up waiting cuts nothing off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from apishield.services.quota_lookups import AT_ONCE, QuotaLookups


class Ledger:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], int]] = []
        self.under_way = self.most_under_way = self.cut_off = 0
        self.may_answer = asyncio.Event()
        self.fails = False

    async def ask(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        self.asked.append((list(counter_keys), period_start_us))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            self.under_way -= 1
        if self.fails:
            raise RuntimeError("gone")
        return {key: len(key) for key in counter_keys if key != "new"}


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_counter_is_asked_for_once_however_many_wait() -> None:
    ledger = Ledger()
    lookups = QuotaLookups(ledger.ask)
    waiting = [asyncio.create_task(lookups.used(["a", "new"], 1)) for _ in range(100)]
    await turns()
    ledger.may_answer.set()
    assert await asyncio.gather(*waiting) == [{"a": 1, "new": 0}] * 100
    assert ledger.asked == [(["a", "new"], 1)]
    await lookups.used(["a"], 1)
    assert len(ledger.asked) == 2  # an answer is not kept: it would be old


async def test_few_questions_are_under_way_and_those_who_come_later_are_asked_for_together() -> None:
    ledger = Ledger()
    lookups = QuotaLookups(ledger.ask)
    waiting = [asyncio.create_task(lookups.used([f"k{number:03}"], 1)) for number in range(100)]
    await turns()
    ledger.may_answer.set()
    assert [list(answer.values()) for answer in await asyncio.gather(*waiting)] == [[4]] * 100
    assert ledger.most_under_way == AT_ONCE
    assert len(ledger.asked) == AT_ONCE + 1


async def test_who_gives_up_waiting_cuts_no_question_off() -> None:
    ledger = Ledger()
    lookups = QuotaLookups(ledger.ask)
    hasty, patient = (asyncio.create_task(lookups.used(["a"], 1)) for _ in range(2))
    await turns()
    hasty.cancel()
    await asyncio.gather(hasty, return_exceptions=True)
    ledger.may_answer.set()
    assert await patient == {"a": 1}
    assert ledger.cut_off == 0
    await lookups.close()


async def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    ledger = Ledger()
    ledger.fails = True
    lookups = QuotaLookups(ledger.ask)
    waiting = [asyncio.create_task(lookups.used(["a"], 1)) for _ in range(3)]
    ledger.may_answer.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in found] == [RuntimeError] * 3
    ledger.fails = False
    assert await lookups.used(["a"], 1) == {"a": 1}
