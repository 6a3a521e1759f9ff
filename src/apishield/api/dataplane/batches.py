"""Many checks at once, without holding up anybody else: decided in short turns, and told no more than fits an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from time import perf_counter
from typing import Final

import msgspec

from apishield.api.dataplane.bodies import decode
from apishield.core.decision import CheckRequest, Decision
from apishield.errors import ProblemError
from apishield.later import Later
from apishield.services.engine import Engine
from apishield.services.snapshot import TenantView
from apishield.services.turns import Turn

MAX_LIMITS_A_BATCH: Final = 20_000
"""How many limits decide all checks of a batch; checks after that are refused. At 250 bytes each they also bound the answer."""

_TURN_SECONDS = 0.005
_TURN_LIMITS = 500  # what is asked of a store is sent when the turn is over, and its answers come together
_ANSWERS_SECONDS = 0.02

CheckDecoder = msgspec.json.Decoder[CheckRequest]


async def decide_in_turns(
    engine: Engine, view: TenantView, checks: Sequence[msgspec.Raw | CheckRequest], decoder: CheckDecoder
) -> list[Decision]:
    """All decisions, in order. Those that wait for a store wait side by side, so that one call of it decides many.

    A check that is still raw is read by itself, and spoils only itself where it can't be.
    """
    results: list[Decision | Later[Decision]] = []
    last: Later[Decision] | None = None
    limits = 0  # of the turns before
    turn, began = engine.turn(view), perf_counter()
    for check in checks:
        if limits + turn.limits >= MAX_LIMITS_A_BATCH:
            result: Decision | Awaitable[Decision] = engine.refuse(view, "bad_request", _TOO_MANY)
        elif isinstance(check, CheckRequest):
            result = engine.check_in(turn, check)
        else:
            result = _ask_raw(engine, turn, check, decoder)
        if not isinstance(result, Decision):
            result = last = Later.of(result)
        results.append(result)
        if perf_counter() - began > _TURN_SECONDS or turn.limits >= _TURN_LIMITS:
            await _let_others(last)
            limits += turn.limits
            turn, began = engine.turn(view), perf_counter()
    return [each if isinstance(each, Decision) else each.result() if each.is_done else await each for each in results]


async def _let_others(last: Later[Decision] | None) -> None:
    """Gives a turn to others, until the store has answered; answers come in the order of asking.

    What takes longer, such as the look for a key that is unknown here, is waited for once, at the end.
    """
    if last is None or last.is_done:
        await asyncio.sleep(0)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ANSWERS_SECONDS):
            await last


_TOO_MANY = (
    f"{MAX_LIMITS_A_BATCH:,} limits decided the checks before this one, as many as one batch may ask: "
    "ask for this one in another batch. Nothing was charged for it."
)


def _ask_raw(engine: Engine, turn: Turn, check: msgspec.Raw, decoder: CheckDecoder) -> Decision | Awaitable[Decision]:
    try:
        request = decode(decoder, bytes(check))
    except ProblemError as error:
        return engine.refuse(turn.view, "bad_request", error.detail)
    return engine.check_in(turn, request)
