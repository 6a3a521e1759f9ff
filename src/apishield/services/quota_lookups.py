"""Asks the ledger of quotas for many who wait at once: each counter once at a time, a few questions at a time.

When a store has lost its state, or is gone, every check of every key with a quota wants to know at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Final

AT_ONCE: Final = 2  # of the five connections that a process has to its database
COUNTERS_A_QUESTION: Final = 500

Ask = Callable[[Sequence[str], int], Awaitable[dict[str, int]]]
_Waiting = dict[str, asyncio.Future[int]]


class QuotaLookups:
    """``ask`` says what counters used in a period, by their key; absent means none. ``close`` it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._answers: dict[int, _Waiting] = {}  # by the period's start: whoever asks for the same waits for the same
        self._unasked: dict[int, _Waiting] = {}
        self._questions: set[asyncio.Task[None]] = set()

    async def used(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        """Units used in the period, by counter key. Raises what ``ask`` raises.

        Who gives up waiting ends no question: others may wait for it, and a query that is cut off costs its connection.
        """
        answers = self._answers.setdefault(period_start_us, {})
        wanted: _Waiting = {}
        for counter_key in counter_keys:
            if counter_key not in answers:
                answer = asyncio.get_running_loop().create_future()
                answers[counter_key] = answer
                self._unasked.setdefault(period_start_us, {})[counter_key] = answer
            wanted[counter_key] = answers[counter_key]
        self._go_on()
        if wanted:
            await asyncio.wait(wanted.values())
        return {counter_key: answer.result() for counter_key, answer in wanted.items()}

    async def close(self) -> None:
        """Waits for the questions that are under way, for a moment."""
        if self._questions:
            _, late = await asyncio.wait(self._questions, timeout=1)
            for question in late:
                question.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _go_on(self) -> None:
        while self._unasked and len(self._questions) < AT_ONCE:
            start_us, unasked = next(iter(self._unasked.items()))
            some = dict(islice(unasked.items(), COUNTERS_A_QUESTION))
            for counter_key in some:
                del unasked[counter_key]
            if not unasked:
                del self._unasked[start_us]
            question = asyncio.get_running_loop().create_task(self._question(start_us, some))
            self._questions.add(question)
            question.add_done_callback(self._over)

    def _over(self, question: asyncio.Task[None]) -> None:
        self._questions.discard(question)
        self._go_on()

    async def _question(self, start_us: int, some: _Waiting) -> None:
        try:
            used = await self._ask(list(some), start_us)
        except BaseException as error:
            for answer in some.values():
                if isinstance(error, Exception):
                    answer.set_exception(error)
                    answer.exception()  # nobody may be left who waits
                else:
                    answer.cancel()
            if not isinstance(error, Exception):
                raise
        else:
            for counter_key, answer in some.items():
                answer.set_result(used.get(counter_key, 0))
        finally:
            answers = self._answers[start_us]
            for counter_key in some:
                del answers[counter_key]
            if not answers:
                del self._answers[start_us]
