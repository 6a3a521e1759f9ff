"""Many checks at once, without holding up anybody else: decided in short turns, and told no more than fits an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from time import perf_counter
from typing import Final

import msgspec

from apishield.api.dataplane.bodies import decode
from apishield.core.decision import CheckRequest, Decision
from apishield.errors import ProblemError

MAX_LIMITS_A_BATCH: Final = 20_000
"""How many limits decide all checks of a batch; checks after that are refused. At 250 bytes each they also bound the answer.

What the store had not yet answered by then, some milliseconds of work, comes on top.
"""

_TURN_SECONDS = 0.005
_ANSWERS_SECONDS = 0.02

CheckDecoder = msgspec.json.Decoder[CheckRequest]


async def decide_in_turns(
    raws: Sequence[msgspec.Raw],
    decoder: CheckDecoder,
    check: Callable[[CheckRequest], Decision | Awaitable[Decision]],
    refuse: Callable[[str, str], Decision],
) -> list[Decision]:
    """All decisions, in order. Those that wait for a store wait side by side, so that one call of it decides many."""
    results: list[Decision | asyncio.Future[Decision]] = []
    waiting: list[asyncio.Future[Decision]] = []
    limits = 0
    began = perf_counter()
    for raw in raws:
        result = refuse("bad_request", _TOO_MANY) if limits >= MAX_LIMITS_A_BATCH else _ask(raw, decoder, check, refuse)
        if isinstance(result, Decision):
            results.append(result)
            limits += _limits_of(result)
        else:
            waiting.append(asyncio.ensure_future(result))
            results.append(waiting[-1])
        if perf_counter() - began > _TURN_SECONDS:
            done = await _pause(waiting)
            waiting = [each for each in waiting if each not in done]
            limits += sum(_limits_of(each.result()) for each in done)
            began = perf_counter()
    await asyncio.gather(*(each for each in results if not isinstance(each, Decision)))
    return [each if isinstance(each, Decision) else each.result() for each in results]


_TOO_MANY = (
    f"{MAX_LIMITS_A_BATCH:,} limits decided the checks before this one, as many as one batch may ask: "
    "ask for this one in another batch. Nothing was charged for it."
)


def _ask(
    raw: msgspec.Raw,
    decoder: CheckDecoder,
    check: Callable[[CheckRequest], Decision | Awaitable[Decision]],
    refuse: Callable[[str, str], Decision],
) -> Decision | Awaitable[Decision]:
    try:
        request = decode(decoder, bytes(raw))
    except ProblemError as error:
        return refuse("bad_request", error.detail)
    return check(request)


async def _pause(waiting: Sequence[asyncio.Future[Decision]]) -> Collection[asyncio.Future[Decision]]:
    """Lets others have their turn, and the store's answers come in turns too; which of those came.

    What takes longer, such as the look for a key that is unknown here, is waited for once, at the end.
    """
    if not waiting:
        await asyncio.sleep(0)
        return ()
    done, _ = await asyncio.wait(waiting, timeout=_ANSWERS_SECONDS)
    return done


def _limits_of(decision: Decision) -> int:
    return len(decision.limits) + len(decision.shadow) + decision.limits_omitted
