"""Settles what checks reserved: the true cost instead of the estimate, slots freed, or the whole charge given back.

A decision's id says whether a record is kept, so one that has none costs no trip to the store. The record is taken by whoever
settles first; a later attempt, on whatever node, finds nothing. What nobody settles stays charged.
"""

from __future__ import annotations

from enum import Enum, auto

from apishield.core.counter_keys import record_key
from apishield.core.decision_ids import DecisionIds
from apishield.core.events import SettlementEvent
from apishield.core.model import MAX_UNITS, Counter, Mode
from apishield.core.ports import Clock, CounterStore, EventLog, Held
from apishield.errors import ProblemError

_MOST_REMEMBERED = 100_000


class Settled(Enum):
    """What became of an attempt to settle."""

    NOW = auto()
    BEFORE = auto()
    RELEASED = auto()
    TOO_LATE = auto()  # or by way of another node, which this one can't tell from it
    NOT_RESERVED = auto()


def no_room() -> ProblemError:
    """The refusal of what could not be written down: it would be lost with this process."""
    return ProblemError(
        "storage_full",
        "The node has no room to write this down: its disk is full, or too much waits for the ledger. Send it again later.",
        headers={"Retry-After": "5"},
    )


class SettlementService:
    """Over the store of the counters. Its calls raise ``StoreUnavailable`` where that can't be reached."""

    def __init__(self, store: CounterStore, ids: DecisionIds, events: EventLog, clock: Clock) -> None:
        self._store = store
        self._ids = ids
        self._events = events
        self._clock = clock
        self._ended: dict[str, Settled] = {}

    async def settle(self, tenant_id: str, decision_id: str, units: dict[str, int] | None) -> Settled:
        """Settles a decision of the tenant at ``units``; those that are not named stay as estimated.

        ``None`` settles no cost and frees its slots.
        """
        key = record_key(tenant_id, decision_id)
        ended = self._ended.get(decision_id, Settled.TOO_LATE)
        if units is not None and ended is Settled.TOO_LATE:
            self._remember(decision_id, Settled.BEFORE)  # at once: somebody may tell the same while the store is asked
        held = await self._store.held(key)
        if held is None:
            return ended
        if units is not None and not held.settles:
            return Settled.NOT_RESERVED
        if units is None and held.settles:
            return Settled.NOW  # told without a cost: the estimate stands, and may still be settled
        costs = [
            _cost(counter, before, factor, units or {})
            for counter, before, factor in zip(held.counters, held.costs, held.factors, strict=True)
        ]
        settled = await self._take(key, held, costs, decision_id)
        if settled is Settled.NOW and units is not None:
            self._tell(tenant_id, decision_id, units, released=False)
        return settled

    def knows(self, tenant_id: str, decision_id: str) -> bool:
        """Whether the decision was made for the tenant; costs no I/O."""
        return self._ids.read(decision_id, tenant_id) is not None

    async def release(self, tenant_id: str, decision_id: str) -> bool:
        """Gives back the whole charge of a decision of the tenant, and its slots. Returns whether there was anything.

        Raises ``ProblemError``, 507 ``storage_full``, where that can't be written down now.
        """
        if not self._events.has_room_for(1):
            raise no_room()
        key = record_key(tenant_id, decision_id)
        held = await self._store.held(key)
        if held is None:
            return False
        if await self._take(key, held, [0] * len(held.counters), decision_id) is not Settled.NOW:
            return False
        self._remember(decision_id, Settled.RELEASED)
        self._tell(tenant_id, decision_id, {}, released=True)
        return True

    def _remember(self, decision_id: str, ended: Settled) -> None:
        self._ended[decision_id] = ended
        if len(self._ended) > _MOST_REMEMBERED:
            del self._ended[next(iter(self._ended))]  # dictionaries keep their order: the oldest goes

    def _tell(self, tenant_id: str, decision_id: str, units: dict[str, int], *, released: bool) -> None:
        """Tells the ledger what the decision cost in the end. Whoever took the record does, so it is told once."""
        ref = self._ids.read(decision_id, tenant_id)
        if ref is not None:
            self._events.append(
                SettlementEvent(ref.spool, ref.sequence, ref.at_ms, tenant_id, self._clock(), units, released)
            )

    async def _take(self, key: str, held: Held, costs: list[int], decision_id: str) -> Settled:
        return Settled.NOW if await self._store.settle(key, held, costs, decision_id) else Settled.BEFORE


def _cost(counter: Counter, before: int, factor: int, units: dict[str, int]) -> int:
    """What ``counter`` is charged in the end. Shadow limits, which may not have been charged, keep their estimate."""
    unit = counter.limit.unit
    if unit not in units or counter.limit.mode is Mode.SHADOW:
        return before
    return min(units[unit] * factor, MAX_UNITS)
