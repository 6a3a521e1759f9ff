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
from apishield.services.engine import CHECKS_AT_ONCE, Engine
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
    if late := await batch.decide(view, range(len(checks)), knows_all=False):
        # Their keys may have been made on another node a moment ago: one look for all of them.
        await batch.decide(await engine.caught_up(view), late, knows_all=True)
    return await batch.results()


class _Batch:
    """``_found`` are the decisions so far, at their places: their JSON, or what is to come of them."""

    def __init__(self, engine: Engine, checks: Sequence[msgspec.Raw | CheckRequest], decoder: CheckDecoder) -> None:
        self._found: list[str | Later[Decided]] = [""] * len(checks)
        self._first_id: str | None = None
        self._last: Later[Decided] | None = None
        self._engine = engine
        self._checks: list[msgspec.Raw | CheckRequest | None] = list(checks)
        self._decoder = decoder
        self._limits = 0  # of the turns before

    async def decide(self, view: TenantView, places: Sequence[int], *, knows_all: bool) -> list[int]:
        """Decides the checks at ``places``. Returns those whose key only the database could tell."""
        late: list[int] = []
        done = 0
        while done < len(places):
            ends, most_limits = perf_counter() + _TURN_SECONDS, min(_TURN_LIMITS, MAX_LIMITS_A_BATCH - self._limits)
            turn = self._engine.turn(view, most_limits=most_limits, knows_all=knows_all)
            while done < len(places):
                some = places[done : done + CHECKS_AT_ONCE]
                if most_limits > 0:
                    done += self._decide_some(turn, some, late, ends)
                else:
                    done += self._refuse_some(view, some)
                if turn.is_full or perf_counter() > ends:
                    break
            self._limits += turn.limits
            if done < len(places):
                await _let_others(self._last)
        return late

    def _decide_some(self, turn: Turn, places: Sequence[int], late: list[int], ends: float) -> int:
        """Decides the checks at ``places`` until the turn is full, or ends. Returns how many are done."""
        readable: list[int] = []
        requests: list[CheckRequest] = []
        read = 0
        for place in places:
            request = self._read(turn.view, place)
            read += 1
            if request is not None:
                readable.append(place)
                requests.append(request)
            elif perf_counter() > ends:  # what can't be read takes the longest to read
                break
        results = self._engine.check_all(turn, requests)
        for place, result in zip(readable, results, strict=False):
            if result is None:
                late.append(place)
            else:
                self._take(place, result)
        return read if len(results) == len(readable) else places.index(readable[len(results)])

    def _read(self, view: TenantView, place: int) -> CheckRequest | None:
        """The check at ``place``; ``None`` where it can't be read, and is refused for that."""
        check = self._checks[place]
        if check is None or isinstance(check, CheckRequest):
            return check
        try:
            request = self._checks[place] = decode(self._decoder, bytes(check))
        except ProblemError as error:
            self._checks[place] = None
            self._take(place, self._engine.refuse(view, "bad_request", error.detail))
            return None
        return request

    def _refuse_some(self, view: TenantView, places: Sequence[int]) -> int:
        for place in places:
            if self._checks[place] is not None:  # else it was read with others, and is refused already
                self._take(place, self._engine.refuse(view, "bad_request", _TOO_MANY))
        return len(places)

    def _take(self, place: int, result: Decided | Awaitable[Decided]) -> None:
        if isinstance(result, Decided):
            self._found[place] = result.json()
            if place == 0:
                self._first_id = result.decision_id
        else:
            self._found[place] = self._last = Later.of(result)

    async def results(self) -> tuple[str | None, list[str]]:
        """The JSON of all decisions, once the last has come, and the id of the first."""
        results: list[str] = []
        began = perf_counter()
        for place, found in enumerate(self._found):
            if isinstance(found, str):
                results.append(found)
                continue
            decided = found.result() if found.is_done else await found
            results.append(decided.json())
            if place == 0:
                self._first_id = decided.decision_id
            if perf_counter() - began > _TURN_SECONDS:
                await asyncio.sleep(0)
                began = perf_counter()
        return self._first_id, results


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
