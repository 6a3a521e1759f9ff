"""Settles what checks reserved: the true cost instead of the estimate, slots freed, or the whole charge given back.

A decision's id says whether a record is kept, so one that has none costs no trip to the store. The record is taken by whoever
settles first; a later attempt, on whatever node, finds nothing. What nobody settles stays charged.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, Literal

import msgspec

from apishield.core.counter_keys import record_key
from apishield.core.decision_ids import DecisionIds
from apishield.core.events import SettlementEvent
from apishield.core.model import MAX_UNITS, Counter, Mode
from apishield.core.ports import Clock, CounterStore, EventLog
from apishield.errors import ProblemError

_MOST_REMEMBERED = 100_000


class Settled(Enum):
    """What became of an attempt to settle."""

    NOW = auto()
    BEFORE = auto()
    TOO_LATE = auto()  # released, or settled by way of another node, which can't be told from it
    NOT_RESERVED = auto()


def no_room() -> ProblemError:
    """The refusal of what could not be written down: it would be lost with this process."""
    return ProblemError(
        "storage_full",
        "The node has no room to write this down: its disk is full, or too much waits for the ledger. Send it again later.",
        headers={"Retry-After": "5"},
    )


class Released(msgspec.Struct, frozen=True):
    """Whether a decision's charge and slots were given back, and if not, why: `reason` for programs, `message` for people.

    `not_reserved`: no record is kept of the check, so nothing says what to give back. `over`: it was settled or released
    before, its time is over, or it was refused or decided without the store.
    """

    released: bool
    reason: Literal["not_reserved", "over"] | None = None
    message: str = ""


_RELEASED: Final = Released(True)
_NOTHING_HELD: Final = Released(
    False,
    "not_reserved",
    'Only what is held can be given back: the charge of a check with "reserve": true, and slots of a concurrency limit. '
    "This check held nothing; what it was charged stays so.",
)
_NO_LONGER_HELD: Final = Released(
    False,
    "over",
    "Nothing is held any more: it was settled or released before, its time is over, or it never was held, because the check "
    "was refused or decided without the store.",
)


class SettlementService:
    """Over the store of the counters. Its calls raise ``StoreUnavailable`` where that can't be reached."""

    def __init__(self, store: CounterStore, ids: DecisionIds, events: EventLog, clock: Clock) -> None:
        self._store = store
        self._ids = ids
        self._events = events
        self._clock = clock
        self._settled: dict[str, bool] = {}  # by decision: whether it was settled here, or still is on its way

    async def settle(self, tenant_id: str, decision_id: str, units: dict[str, int] | None) -> Settled:
        """Settles a decision of the tenant at ``units``; those that are not named stay as estimated.

        ``None`` settles no cost and frees its slots.
        """
        key = record_key(tenant_id, decision_id)
        held = await self._store.held(key)
        if held is None:
            return self._before(decision_id)
        if units is not None and not held.settles:
            return Settled.NOT_RESERVED
        if units is None and held.settles:
            return Settled.NOW  # told without a cost: the estimate stands, and may still be settled
        costs = [
            _cost(counter, before, factor, units or {})
            for counter, before, factor in zip(held.counters, held.costs, held.factors, strict=True)
        ]
        if units is None:
            return Settled.NOW if await self._store.settle(key, held, costs, decision_id) else Settled.BEFORE
        is_first = decision_id not in self._settled
        if is_first:
            self._remember(decision_id, settled=False)  # at once: somebody may tell the same while the store is asked
        if await self._store.settle(key, held, costs, decision_id):
            self._remember(decision_id, settled=True)
            self._tell(tenant_id, decision_id, units, released=False)
            return Settled.NOW
        if is_first and not self._settled.get(decision_id):
            self._settled.pop(decision_id, None)  # somebody else took it: another node, or who released it
        return self._before(decision_id)

    async def release(self, tenant_id: str, decision_id: str) -> Released | None:
        """Gives back the whole charge of a decision of the tenant, and its slots; ``None`` where it has no such decision.

        Raises ``ProblemError``, 507 ``storage_full``, where that can't be written down now.
        """
        reference = self._ids.read(decision_id, tenant_id)
        if reference is None:
            return None
        if not reference.held:
            return _NOTHING_HELD
        if not self._events.has_room_for(1):
            raise no_room()
        key = record_key(tenant_id, decision_id)
        held = await self._store.held(key)
        if held is None or not await self._store.settle(key, held, [0] * len(held.counters), decision_id):
            return _NO_LONGER_HELD
        self._tell(tenant_id, decision_id, {}, released=True)
        return _RELEASED

    def _before(self, decision_id: str) -> Settled:
        """What to say of a decision of which nothing is held any more."""
        return Settled.BEFORE if decision_id in self._settled else Settled.TOO_LATE

    def _remember(self, decision_id: str, *, settled: bool) -> None:
        self._settled[decision_id] = settled
        if len(self._settled) > _MOST_REMEMBERED:
            del self._settled[next(iter(self._settled))]  # dictionaries keep their order: the oldest goes

    def _tell(self, tenant_id: str, decision_id: str, units: dict[str, int], *, released: bool) -> None:
        """Tells the ledger what the decision cost in the end. Whoever took the record does, so it is told once."""
        ref = self._ids.read(decision_id, tenant_id)
        if ref is not None:
            self._events.append(
                SettlementEvent(ref.spool, ref.sequence, ref.at_ms, tenant_id, self._clock(), units, released)
            )


def _cost(counter: Counter, before: int, factor: int, units: dict[str, int]) -> int:
    """What ``counter`` is charged in the end. Shadow limits, which may not have been charged, keep their estimate."""
    unit = counter.limit.unit
    if unit not in units or counter.limit.mode is Mode.SHADOW:
        return before
    return min(units[unit] * factor, MAX_UNITS)
