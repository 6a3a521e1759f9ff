"""Many checks at once, without holding up anybody else: decided in short turns, and told no more than fits an answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from time import perf_counter
from typing import Final

import msgspec

from apishield.api.dataplane.bodies import decode
from apishield.core.decided import Decided
from apishield.core.decision import CheckRequest
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
) -> tuple[str | None, list[str]]:
    """All decisions as JSON, in order, and the id of the first, if there is one.

    Those that wait for a store wait side by side, so that one call of it decides many. A check that is still raw is read by
    itself, and spoils only itself where it can't be.
    """
    batch = _Batch(engine, checks, decoder)
    if late := await batch.decide(engine.turn(view), range(len(checks))):
        # Their keys may have been made on another node a moment ago: one look for all of them.
        await batch.decide(engine.turn(await engine.caught_up(view), knows_all=True), late)
    return await batch.results()


class _Batch:
    """``_found`` are the decisions so far, at their places: their JSON, or what is to come of them."""

    def __init__(self, engine: Engine, checks: Sequence[msgspec.Raw | CheckRequest], decoder: CheckDecoder) -> None:
        self._found: list[str | Later[Decided]] = [""] * len(checks)
        self._first_id: str | None = None
        self._engine = engine
        self._checks = checks
        self._decoder = decoder
        self._limits = 0  # of the turns before

    async def decide(self, turn: Turn, places: Sequence[int]) -> list[int]:
        """Decides the checks at ``places``. Returns those whose key only the database could tell."""
        engine, found, late = self._engine, self._found, []
        last: Later[Decided] | None = None
        began = perf_counter()
        for place in places:
            if self._limits + turn.limits >= MAX_LIMITS_A_BATCH:
                result: Decided | Awaitable[Decided] | None = engine.refuse(turn.view, "bad_request", _TOO_MANY)
            else:
                result = self._ask(turn, self._checks[place])
            if isinstance(result, Decided):
                found[place] = result.json()
                if place == 0:
                    self._first_id = result.decision_id
            elif result is None:
                late.append(place)
            else:
                found[place] = last = Later.of(result)
            if perf_counter() - began > _TURN_SECONDS or turn.limits >= _TURN_LIMITS:
                await _let_others(last)
                self._limits += turn.limits
                turn, began = engine.turn(turn.view, knows_all=turn.knows_all), perf_counter()
        self._limits += turn.limits
        return late

    async def results(self) -> tuple[str | None, list[str]]:
        """All that was decided, once the last of it has come, and the id of the first."""
        results: list[str] = []
        began = perf_counter()
        for each in self._found:
            if isinstance(each, str):
                results.append(each)
                continue
            decided = each.result() if each.is_done else await each
            results.append(decided.json())
            if len(results) == 1:
                self._first_id = decided.decision_id
            if perf_counter() - began > _TURN_SECONDS:
                await asyncio.sleep(0)
                began = perf_counter()
        return self._first_id, results

    def _ask(self, turn: Turn, check: msgspec.Raw | CheckRequest) -> Decided | Awaitable[Decided] | None:
        if not isinstance(check, CheckRequest):
            try:
                check = decode(self._decoder, bytes(check))
            except ProblemError as error:
                return self._engine.refuse(turn.view, "bad_request", error.detail)
        return self._engine.check_in(turn, check)


async def _let_others(last: Later[Decided] | None) -> None:
    """Gives a turn to others, until the store has answered; answers come in the order of asking.

    What takes longer, such as a quota that is looked up first, is waited for once, at the end.
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
