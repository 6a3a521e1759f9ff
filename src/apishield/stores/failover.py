"""What happens while the counters' store is gone: each limit goes on as it says, every answer says so, nothing waits.

- ``local``: this node enforces its share, the limit divided by the nodes that are alive (at least 1). A window that spans
  failures so admits at most the limit plus one share a node, however many there are. What was charged here is charged to
  the store on healing.
- ``allow`` and ``deny`` do that.

Quotas go on from what the durable ledger knows. What is admitted of them here is not charged to the store where the ledger of
events knows it, too: the store is seeded from the ledger, and ``services.reconcile`` charges what it is missing. Of other
quotas it is charged, save where the call that failed may have charged it.

After a few failures the store is left alone (the breaker is open) and only a probe goes to it, behind, until one comes back;
so a store that hangs costs a few checks its time-out, and the others nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from apishield.core.counter_keys import hash_tag
from apishield.core.model import MAX_UNITS, SECOND_US, Counter, FixedWindow, Limit, Once, Verdict
from apishield.core.ports import Clock, CounterStore, Held, Hold, QuotaLedger
from apishield.errors import NoAnswer, StoreFull, StoreUnavailable
from apishield.later import Later
from apishield.stores.local_share import LocalShare, nothing_is_kept

log = structlog.get_logger("apishield.store")

FAILURES_TO_OPEN = 3
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
ONE_FAILURE_SECONDS = 0.005  # the checks of one call that fails are one failure
BROUGHT_BACK_AT_ONCE = 256

Result = TypeVar("Result")

_PROBE = Limit(id="probe", name="probe", algorithm=FixedWindow(MAX_UNITS, SECOND_US))


class FailoverStats(msgspec.Struct):
    """Counts since the start, for metrics."""

    failures: int = 0
    times_opened: int = 0
    local_decisions: int = 0
    brought_back: int = 0
    not_brought_back: int = 0


class FailoverStore:
    """A ``CounterStore`` over ``primary`` that never raises from ``decide`` and never makes a check wait for long.

    ``clock`` is this node's, used only while degraded; ``ledger`` says how much of the quotas is used. ``is_kept`` is whether
    the ledger of events knows what is admitted of a quota, and ``on_healed`` is called when the store is used again.
    """

    def __init__(
        self,
        primary: CounterStore,
        clock: Clock,
        ledger: QuotaLedger | None = None,
        *,
        live_nodes: Callable[[], int] = lambda: 1,
        is_kept: Callable[[Counter], bool] = nothing_is_kept,
        on_healed: Callable[[], None] = lambda: None,
    ) -> None:
        self.stats = FailoverStats()
        self._primary = primary
        self._local = LocalShare(clock, ledger, live_nodes, is_kept)
        self._on_healed = on_healed
        self._failures = 0
        self._failed_at = 0.0
        self._is_open = False
        self._failed_tag = ""
        self._healing: asyncio.Task[None] | None = None

    @property
    def primary(self) -> CounterStore:
        """The store that this one does without when it must."""
        return self._primary

    @property
    def is_degraded(self) -> bool:
        """Whether checks are decided without the store."""
        return self._is_open

    def decide(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check, by the store or without it (port ``CounterStore``).

        What is decided without it keeps no record: its charge stands as it was estimated.
        """
        if self._is_open and counters:
            return self._decide_locally(counters, costs, check_id)
        try:
            verdict = self._primary.decide(counters, costs, check_id, hold)
        except StoreUnavailable as error:
            self._note_failure(counters, error)
            return self._decide_locally(counters, costs, check_id)
        return verdict if isinstance(verdict, Verdict) else self._wait(verdict, counters, costs, check_id)

    def decide_once(
        self,
        once: Once,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        hold: Hold | None = None,
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check, or finds the verdict that it got (port ``CounterStore``).

        What is decided without the store is remembered by this node alone.
        """
        earlier = self._local.decided(once)
        if earlier is not None:
            return earlier
        if self._is_open:
            return self._decide_locally(counters, costs, check_id, once)
        try:
            verdict = self._primary.decide_once(once, counters, costs, check_id, hold)
        except StoreUnavailable as error:
            self._note_failure(counters, error, once)
            return self._decide_locally(counters, costs, check_id, once)
        return verdict if isinstance(verdict, Verdict) else self._wait(verdict, counters, costs, check_id, once)

    async def held(self, record_key: str) -> Held | None:
        """The record of a check (port ``CounterStore``). Raises ``StoreUnavailable`` at once while the store is gone."""
        return await self._with_store(lambda: self._primary.held(record_key))

    async def settle(self, record_key: str, held: Held, costs: Sequence[int], check_id: str) -> bool:
        """Settles a check, once (port ``CounterStore``). Raises ``StoreUnavailable`` while the store is gone."""
        return await self._with_store(lambda: self._primary.settle(record_key, held, costs, check_id))

    async def _with_store(self, call: Callable[[], Awaitable[Result]]) -> Result:
        if self._is_open:
            raise StoreUnavailable("The store of the counters can't be reached.")
        return await call()

    async def charge(self, counters: Sequence[Counter], costs: Sequence[int]) -> None:
        """Charges even past the limits, later where the store is gone (port ``CounterStore``)."""
        if not self._is_open:
            try:
                await self._primary.charge(counters, costs)
            except StoreUnavailable as error:
                self._note_failure(counters, error)
            return  # a call that failed may have run
        await self._local.charge(counters, costs)

    async def release(self, counters: Sequence[Counter], costs: Sequence[int], check_id: str) -> None:
        """Frees the slots that ``check_id`` holds (port ``CounterStore``); where the store is gone, they time out there."""
        await self._local.release(counters, costs, check_id)
        if not self._is_open:
            try:
                await self._primary.release(counters, costs, check_id)
            except StoreUnavailable as error:
                self._note_failure(counters, error)

    async def reset(self, counters: Sequence[Counter]) -> None:
        """Forgets the state of ``counters``, there and here.

        Raises ``StoreUnavailable`` where nothing was done, and ``NoAnswer`` where nobody can say: who resets must know. What
        was admitted here then still counts.
        """
        await self._with_store(lambda: self._primary.reset(counters))
        await self._local.reset(counters)

    async def close(self) -> None:
        """Ends the probing, tells the ledger of the quotas that the store was not, and lets go of the store's connections."""
        if self._healing is not None:
            self._healing.cancel()
            await asyncio.gather(self._healing, return_exceptions=True)
        await self._local.hand_over()
        await self._primary.close()

    def _wait(
        self,
        pending: Awaitable[Verdict],
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        once: Once | None = None,
    ) -> Later[Verdict]:
        """The store's verdict, or this node's where the store fails."""
        return Later.of(pending).then(partial(self._taken, counters, costs, check_id, once))

    def _taken(
        self,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        once: Once | None,
        done: Later[Verdict],
    ) -> Verdict | Later[Verdict]:
        try:
            verdict = done.result()
        except StoreUnavailable as error:
            self._note_failure(counters, error, once)
            has_run = isinstance(error, NoAnswer)
            local = self._decide_locally(counters, costs, check_id, once, may_have_run=has_run)
            return local if isinstance(local, Verdict) else Later.of(local)
        if self._failures and not self._is_open:
            self._failures = 0
            self._begin_healing()
        return verdict

    def _decide_locally(
        self,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        once: Once | None = None,
        *,
        may_have_run: bool = False,
    ) -> Verdict | Awaitable[Verdict]:
        self.stats.local_decisions += 1
        if once is not None:
            return self._local.decide_once(once, counters, costs, check_id, may_have_run=may_have_run)
        return self._local.decide(counters, costs, check_id, may_have_run=may_have_run)

    # --- the breaker --------------------------------------------------------------------------------------------------

    def _note_failure(self, counters: Sequence[Counter], error: StoreUnavailable, once: Once | None = None) -> None:
        if isinstance(error, StoreFull):
            return  # it works
        self.stats.failures += 1
        now = asyncio.get_running_loop().time()
        if now - self._failed_at > ONE_FAILURE_SECONDS:  # since the last that counted: failures may never pause
            self._failures += 1
            self._failed_at = now
        if self._failures >= FAILURES_TO_OPEN and not self._is_open:
            self._is_open = True
            self.stats.times_opened += 1
            log.warning(
                "store.gone",
                error=str(error),
                consequence="each limit goes on as its on_store_failure says: by default this node enforces its share",
            )
            self._failed_tag = hash_tag(counters[0].key if once is None else once.key)
            self._begin_healing()

    def _begin_healing(self) -> None:
        if self._healing is None:
            self._healing = asyncio.get_running_loop().create_task(self._heal())

    async def _heal(self) -> None:
        """Probes until the store answers, then brings the local charges back."""
        try:
            if not self._is_open:
                await self._mend()
            pause_seconds = FIRST_PAUSE_SECONDS
            while self._is_open:
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
                if await self._answers():
                    self._failures = 0
                    self._is_open = False
                    log.info("store.healed", local_decisions=self.stats.local_decisions)
                    await self._mend()  # where that fails often enough, the store is given up again
        finally:
            self._healing = None

    async def _mend(self) -> None:
        await self._bring_back()
        self._on_healed()

    async def _answers(self) -> bool:
        """Whether the server that failed can be written to again."""
        try:
            await self._primary.charge([Counter(f"{self._failed_tag}}}|probe", _PROBE)], [1])
        except StoreUnavailable:
            return False
        return True

    async def _bring_back(self) -> None:
        """Charges the store what was admitted without it. What fails then may have run, and is not sent again."""
        owed = await self._local.take_owed()
        for start in range(0, len(owed), BROUGHT_BACK_AT_ONCE):
            part = owed[start : start + BROUGHT_BACK_AT_ONCE]
            done = await asyncio.gather(
                *(self._primary.charge([counter], [units]) for counter, units in part), return_exceptions=True
            )
            failed = sum(isinstance(result, BaseException) for result in done)
            self.stats.brought_back += len(done) - failed
            self.stats.not_brought_back += failed
