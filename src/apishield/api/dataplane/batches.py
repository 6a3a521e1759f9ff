"""Many checks at once, without holding up anybody else: decided in short turns, and told no more than fits an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final

import msgspec

from apishield.api.dataplane.bodies import decode
from apishield.core.decision import CheckRequest, Decision
from apishield.errors import ProblemError
from apishield.later import Later

MAX_LIMITS_A_BATCH: Final = 20_000
"""How many limits decide all checks of a batch; checks after that are refused. At 250 bytes each they also bound the answer.

What the store had not yet answered by then, some milliseconds of work, comes on top.
"""

_TURN_SECONDS = 0.005
_ANSWERS_SECONDS = 0.02

CheckDecoder = msgspec.json.Decoder[CheckRequest]


async def decide_in_turns(
    checks: Sequence[msgspec.Raw | CheckRequest],
    decoder: CheckDecoder,
    check: Callable[[CheckRequest], Decision | Awaitable[Decision]],
    refuse: Callable[[str, str], Decision],
) -> list[Decision]:
    """All decisions, in order. Those that wait for a store wait side by side, so that one call of it decides many.

    A check that is still raw is read by itself, and spoils only itself where it can't be.
    """
    results: list[Decision | Later[Decision]] = []
    waiting = _Waiting()
    limits = 0
    began = perf_counter()
    for asked in checks:
        if limits + waiting.limits >= MAX_LIMITS_A_BATCH:
            result: Decision | Awaitable[Decision] = refuse("bad_request", _TOO_MANY)
        else:
            result = _ask(asked, decoder, check, refuse)
        if isinstance(result, Decision):
            limits += _limits_of(result)
        else:
            result = waiting.add(result)
        results.append(result)
        if perf_counter() - began > _TURN_SECONDS:
            # What takes longer, such as the look for a key that is unknown here, is waited for once, at the end.
            await waiting.over(_ANSWERS_SECONDS)
            began = perf_counter()
    await waiting.over(None)
    return [each if isinstance(each, Decision) else each.result() for each in results]


def _limits_of(decision: Decision) -> int:
    return len(decision.limits) + len(decision.shadow) + decision.limits_omitted


class _Waiting:
    """Decisions on their way, and how many limits decided those that have come."""

    def __init__(self) -> None:
        self.limits = 0
        self._under_way = 0
        self._all_came: asyncio.Future[None] | None = None

    def add(self, pending: Awaitable[Decision]) -> Later[Decision]:
        """Counts one more."""
        self._under_way += 1
        return Later.of(pending).then(self._came)

    async def over(self, timeout_seconds: float | None) -> None:
        """Lets others have their turn until all have come, or for ``timeout_seconds``."""
        if not self._under_way:
            await asyncio.sleep(0)
            return
        self._all_came = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._all_came], timeout=timeout_seconds)

    def _came(self, done: Later[Decision]) -> Decision:
        self._under_way -= 1
        if not self._under_way and self._all_came is not None and not self._all_came.done():
            self._all_came.set_result(None)
        decision = done.result()
        self.limits += _limits_of(decision)
        return decision


_TOO_MANY = (
    f"{MAX_LIMITS_A_BATCH:,} limits decided the checks before this one, as many as one batch may ask: "
    "ask for this one in another batch. Nothing was charged for it."
)


def _ask(
    asked: msgspec.Raw | CheckRequest,
    decoder: CheckDecoder,
    check: Callable[[CheckRequest], Decision | Awaitable[Decision]],
    refuse: Callable[[str, str], Decision],
) -> Decision | Awaitable[Decision]:
    if isinstance(asked, CheckRequest):
        return check(asked)
    try:
        request = decode(decoder, bytes(asked))
    except ProblemError as error:
        return refuse("bad_request", error.detail)
    return check(request)
