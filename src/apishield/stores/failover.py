"""What happens while the counters' store is gone: each limit goes on as it says, every answer says so, nothing waits.

- ``local``: this node enforces its share, the limit divided by the nodes that are alive (at least 1). A window that spans
  failures so admits at most the limit plus one share a node, however many there are. What was charged here is charged to
  the store on healing.
- ``allow`` and ``deny`` do that.

Quotas go on from what the durable ledger knows. What is admitted of them here is not charged to the store where the ledger of
events knows it, too: the store is seeded from the ledger, and ``services.reconcile`` charges what it is missing. Of other
quotas it is charged, save where the call that failed may have charged it.

A store may be several servers, of which one is gone: only what it decides is decided here. And where it is only the ledger that
can't say in time what was used of a quota, only the quota is decided here: the store decides all other limits as ever. So it
does all other checks where a counter can't be read, because somebody else wrote there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import compress
from typing import TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from apishield.core.counter_keys import hash_tag
from apishield.core.model import MAX_UNITS, SECOND_US, Counter, FixedWindow, Limit, Once, Quota, Repeat, Verdict
from apishield.core.ports import Clock, CounterStore, Held, Hold, QuotaLedger
from apishield.errors import CounterUnreadable, NoAnswer, QuotaUnknown, StoreFull, StoreUnavailable
from apishield.later import Later
from apishield.stores.breaker import Breaker
from apishield.stores.local_share import LocalShare, nothing_is_kept

log = structlog.get_logger("apishield.store")

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


def one_server(_key: str) -> str:
    """The store is one server, whatever is asked."""
    return ""


class FailoverStore:
    """A ``CounterStore`` over ``primary`` that never raises from ``decide`` and never makes a check wait for long.

    ``clock`` is this node's, used only while degraded; ``ledger`` says how much of the quotas is used. ``place_of`` tells which
    of the store's servers decides over a key. ``is_kept`` is whether the ledger of events knows what is admitted of a quota.
    ``on_healed`` is called when a server is used again.
    """

    def __init__(
        self,
        primary: CounterStore,
        clock: Clock,
        ledger: QuotaLedger | None = None,
        *,
        live_nodes: Callable[[], int] = lambda: 1,
        place_of: Callable[[str], str] = one_server,
        is_kept: Callable[[Counter], bool] = nothing_is_kept,
        on_healed: Callable[[], None] = lambda: None,
    ) -> None:
        self.stats = FailoverStats()
        self._primary = primary
        self._local = LocalShare(clock, ledger, live_nodes, is_kept)
        self._place_of = place_of
        self._on_healed = on_healed
        self._breakers: dict[str, Breaker] = {}
        self._failing: set[str] = set()  # servers that failed and did not answer since; most of the time there are none
        self._gone: set[str] = set()  # those of them that are left alone
        # Keys of counters that were decided here though the store works: a quota's use is not known, a counter can't be read.
        self._unknown: set[str] = set()
        self._mending: set[asyncio.Task[None]] = set()

    @property
    def primary(self) -> CounterStore:
        """The store that this one does without when it must."""
        return self._primary

    @property
    def is_degraded(self) -> bool:
        """Whether checks are decided without the store, or without a server of it."""
        return bool(self._gone)

    def decide(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check, by the store or without it (port ``CounterStore``).

        What is decided without it keeps no record: its charge stands as it was estimated.
        """
        if self._gone and (counters or hold is not None) and self._is_gone(_key_of(counters, None, hold)):
            return self._decide_locally(counters, costs, check_id)
        try:
            verdict = self._primary.decide(counters, costs, check_id, hold)
        except StoreUnavailable as error:
            self._note_failure(_key_of(counters, None, hold), error)
            return self._decide_locally(counters, costs, check_id)
        return verdict if isinstance(verdict, Verdict) else self._wait(verdict, counters, costs, check_id, hold)

    def send(self) -> None:
        """Lets what was asked in this turn go (port ``CounterStore``)."""
        self._primary.send()

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
        if self._is_gone(once.key):
            return self._decide_locally(counters, costs, check_id, once)
        try:
            verdict = self._primary.decide_once(once, counters, costs, check_id, hold)
        except StoreUnavailable as error:
            self._note_failure(once.key, error)
            return self._decide_locally(counters, costs, check_id, once)
        return verdict if isinstance(verdict, Verdict) else self._wait(verdict, counters, costs, check_id, hold, once)

    async def held(self, record_key: str) -> Held | None:
        """The record of a check (port ``CounterStore``). Raises ``StoreUnavailable`` at once while the store is gone."""
        return await self._with_store(record_key, lambda: self._primary.held(record_key))

    async def settle(self, record_key: str, held: Held, costs: Sequence[int], check_id: str) -> bool:
        """Settles a check, once (port ``CounterStore``). Raises ``StoreUnavailable`` while the store is gone."""
        return await self._with_store(record_key, lambda: self._primary.settle(record_key, held, costs, check_id))

    async def charge(self, counters: Sequence[Counter], costs: Sequence[int]) -> None:
        """Charges even past the limits, later where the store is gone (port ``CounterStore``)."""
        if not counters:
            return
        if not self._is_gone(counters[0].key):
            try:
                await self._primary.charge(counters, costs)
            except (CounterUnreadable, QuotaUnknown) as error:  # nothing was charged
                self._note_failure(counters[0].key, error, counters)
            except StoreUnavailable as error:
                self._note_failure(counters[0].key, error)
                return  # a call that failed may have run
            else:
                return
        await self._local.charge(counters, costs)

    async def release(self, counters: Sequence[Counter], costs: Sequence[int], check_id: str) -> None:
        """Frees the slots that ``check_id`` holds (port ``CounterStore``); where the store is gone, they time out there."""
        await self._local.release(counters, costs, check_id)
        if counters and not self._is_gone(counters[0].key):
            try:
                await self._primary.release(counters, costs, check_id)
            except StoreUnavailable as error:
                self._note_failure(counters[0].key, error)

    async def reset(self, counters: Sequence[Counter]) -> None:
        """Forgets the state of ``counters``, there and here.

        Raises ``StoreUnavailable`` where nothing was done, and ``NoAnswer`` where nobody can say: who resets must know. What
        was admitted here then still counts.
        """
        if counters:
            await self._with_store(counters[0].key, lambda: self._primary.reset(counters))
            await self._local.reset(counters)

    async def close(self) -> None:
        """Ends the probing, tells the ledger of the quotas that the store was not, and lets go of the store's connections."""
        for breaker in self._breakers.values():
            await breaker.close()
        for task in self._mending:
            task.cancel()
        await asyncio.gather(*self._mending, return_exceptions=True)
        await self._local.hand_over()
        await self._primary.close()

    async def _with_store(self, key: str, call: Callable[[], Awaitable[Result]]) -> Result:
        if self._is_gone(key):
            raise StoreUnavailable("The store of the counters can't be reached.")
        return await call()

    def _wait(
        self,
        pending: Awaitable[Verdict],
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        hold: Hold | None,
        once: Once | None = None,
    ) -> Later[Verdict]:
        """The store's verdict, or this node's where the store fails."""
        return Later.of(pending).then(partial(self._taken, counters, costs, check_id, hold, once))

    def _taken(
        self,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        hold: Hold | None,
        once: Once | None,
        done: Later[Verdict],
    ) -> Verdict | Later[Verdict]:
        try:
            verdict = done.result()
        except QuotaUnknown:
            return Later.of(self._decide_quotas_locally(counters, costs, check_id, hold, once))
        except StoreUnavailable as error:
            self._note_failure(_key_of(counters, once, hold), error, counters)
            has_run = isinstance(error, NoAnswer)
            local = self._decide_locally(counters, costs, check_id, once, may_have_run=has_run)
            return local if isinstance(local, Verdict) else Later.of(local)
        if self._failing:
            self._note_success(_key_of(counters, once, hold))
        if self._unknown:
            self._note_known(counters)
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

    async def _decide_quotas_locally(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str, hold: Hold | None, once: Once | None
    ) -> Verdict:
        """Decides quotas here, since the ledger does not say what was used of them, and all other limits by the store.

        Either both admit and are charged, or neither is. Refused by a quota, such a check is decided anew when it is repeated.
        """
        are_quotas = [isinstance(counter.limit.algorithm, Quota) for counter in counters]
        are_others = [not is_quota for is_quota in are_quotas]
        quotas, quota_costs = list(compress(counters, are_quotas)), list(compress(costs, are_quotas))
        others, other_costs = list(compress(counters, are_others)), list(compress(costs, are_others))
        self._unknown.update(counter.key for counter in quotas)
        asked = self._decide_locally(quotas, quota_costs, check_id)
        here = asked if isinstance(asked, Verdict) else await asked
        try:
            if not here.admitted:
                pending = self._primary.decide(others, [0] * len(others))
            else:
                if hold is not None:
                    hold = replace(hold, factors=tuple(compress(hold.factors, are_others)))
                if once is None:
                    pending = self._primary.decide(others, other_costs, check_id, hold)
                else:
                    pending = self._primary.decide_once(once, others, other_costs, check_id, hold)
            there = pending if isinstance(pending, Verdict) else await pending
        except StoreUnavailable as error:
            if here.admitted:
                self._local.take_back(quotas, quota_costs, here)
            self._note_failure(_key_of(counters, once, hold), error, counters)
            has_run = isinstance(error, NoAnswer)
            local = self._decide_locally(counters, costs, check_id, once, may_have_run=has_run)
            return local if isinstance(local, Verdict) else await local
        admitted = here.admitted and there.admitted
        if here.admitted and (not admitted or isinstance(there, Repeat)):
            self._local.take_back(quotas, quota_costs, here)
            looked = self._local.decide(quotas, [0] * len(quotas))
            here = looked if isinstance(looked, Verdict) else await looked
        if isinstance(there, Repeat):
            return there
        own, others_own = iter(here.outcomes), iter(there.outcomes)
        outcomes = [next(own) if is_quota else next(others_own) for is_quota in are_quotas]
        return Verdict(admitted, there.now_us, outcomes, degraded=True, denied=here.denied)

    # --- servers that fail, and come back -----------------------------------------------------------------------------

    def _is_gone(self, key: str) -> bool:
        return bool(self._gone) and self._place_of(key) in self._gone

    def _note_failure(self, key: str, error: StoreUnavailable, counters: Sequence[Counter] = ()) -> None:
        if isinstance(error, CounterUnreadable) and error.key not in self._unknown:
            log.warning(
                "store.counter_unreadable",
                key=error.key,
                error=str(error),
                consequence="its checks are decided by this node until the key is deleted, or the limits are reset",
            )
        if isinstance(error, CounterUnreadable | QuotaUnknown):
            self._unknown.update(counter.key for counter in counters)
        if isinstance(error, StoreFull | CounterUnreadable | QuotaUnknown):
            return  # the store works
        self.stats.failures += 1
        place = self._place_of(key)
        self._failing.add(place)
        breaker = self._breakers.get(place)
        if breaker is None:
            # The probe goes to where the same key is then: another server may have taken over.
            probe = Counter(f"{hash_tag(key)}}}|probe", _PROBE)
            breaker = self._breakers[place] = Breaker(partial(self._answers, probe), partial(self._back, place))
        if breaker.failed():
            self._gone.add(place)
            self.stats.times_opened += 1
            log.warning(
                "store.gone",
                server=place or None,
                error=str(error),
                consequence="each limit goes on as its on_store_failure says: by default this node enforces its share",
            )

    def _note_success(self, key: str) -> None:
        place = self._place_of(key)
        if place in self._failing and place not in self._gone:
            self._failing.discard(place)
            self._breakers[place].succeeded()

    async def _answers(self, probe: Counter) -> bool:
        """Whether the server that failed can be written to again."""
        try:
            await self._primary.charge([probe], [1])
        except StoreUnavailable:
            return False
        return True

    async def _back(self, place: str) -> None:
        self._failing.discard(place)
        if place in self._gone:
            self._gone.discard(place)
            log.info("store.healed", server=place or None, local_decisions=self.stats.local_decisions)
        await self._mend(lambda key: not self._is_gone(key) and key not in self._unknown)

    def _note_known(self, counters: Sequence[Counter]) -> None:
        """The store knows again how quotas stand that were decided here."""
        known = {counter.key for counter in counters} & self._unknown
        if known:
            self._unknown -= known
            task = asyncio.get_running_loop().create_task(self._mend(known.__contains__))
            self._mending.add(task)
            task.add_done_callback(self._mending.discard)

    async def _mend(self, is_back: Callable[[str], bool]) -> None:
        """Charges the store what was admitted without it. What fails then may have run, and is not sent again."""
        owed = await self._local.take_owed(is_back)
        for start in range(0, len(owed), BROUGHT_BACK_AT_ONCE):
            part = owed[start : start + BROUGHT_BACK_AT_ONCE]
            done = await asyncio.gather(
                *(self._primary.charge([counter], [units]) for counter, units in part), return_exceptions=True
            )
            failed = sum(isinstance(result, BaseException) for result in done)
            self.stats.brought_back += len(done) - failed
            self.stats.not_brought_back += failed
        self._on_healed()


def _key_of(counters: Sequence[Counter], once: Once | None, hold: Hold | None) -> str:
    """A key of the check, which tells the server: all of one check lie together."""
    if once is not None:
        return once.key
    return counters[0].key if counters else "" if hold is None else hold.record_key
