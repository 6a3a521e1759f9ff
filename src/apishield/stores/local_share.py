"""Checks decided by this node alone, while the store that all nodes share is gone.

Owns: this node's share of each limit, what the others can't know yet and must be charged for later.
Does not own: when that is the case (``stores.failover``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec.structs import replace

from apishield.core.model import (
    SECOND_US,
    Algorithm,
    Concurrency,
    Counter,
    Limit,
    Mode,
    Once,
    OnStoreFailure,
    Quota,
    Repeat,
    TokenBucket,
    Verdict,
)
from apishield.core.outcome import Outcome
from apishield.core.ports import Clock, QuotaLedger, QuotaUse
from apishield.core.rate_limiter.quota import period_of
from apishield.errors import StoreFull, StoreUnavailable
from apishield.stores.decided import DecidedChecks
from apishield.stores.memory import MemoryStore, load_used

LEDGER_TIMEOUT_SECONDS = 0.05
RETRY_DENIED_US = SECOND_US
RECENT_US = 2 * SECOND_US  # for so long a quota is not learned again, where a store comes and goes
MAX_SHARES = 100_000
_REMEMBERED_AT_ONCE = 64


def nothing_is_kept(counter: Counter) -> bool:
    """No ledger of events knows what is admitted of ``counter``."""
    return False


class LocalShare:
    """Decides each limit as its ``on_store_failure`` says; every verdict is ``degraded``.

    A ``local`` limit becomes this node's share, at least 1; of a quota, a share of what the ledger says is left.
    What is admitted is owed to the store, save of a quota that ``is_kept`` by the ledger of events: that is the truth, which
    the store is held to afterwards.
    """

    def __init__(
        self,
        clock: Clock,
        ledger: QuotaLedger | None,
        live_nodes: Callable[[], int],
        is_kept: Callable[[Counter], bool] = nothing_is_kept,
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._live_nodes = live_nodes
        self._is_kept = is_kept
        self._store = MemoryStore(clock, self)
        self._decided = DecidedChecks(clock)
        self._owed: dict[str, tuple[Counter, int, int]] = {}
        self._used: dict[str, int] = {}
        self._quotas: dict[str, Counter] = {}
        self._recent: dict[str, QuotaUse] = {}
        self._shares: dict[tuple[int, str], tuple[Limit, int, Limit]] = {}

    def decide(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", *, may_have_run: bool = False
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check; at once, save where a quota's use must first be read from the ledger.

        ``may_have_run`` is whether the store may have charged it, too; quotas are then not owed.
        """
        if self._ledger is not None:
            unknown = [
                counter
                for counter in counters
                if isinstance(counter.limit.algorithm, Quota)
                and counter.key not in self._used
                and not self._recall(counter, counter.limit.algorithm, RECENT_US)
            ]
            if unknown:
                known = self._learn(self._ledger, unknown)
                return self._decide_after(known, counters, costs, check_id, may_have_run=may_have_run)
        denied = any(_does(counter, OnStoreFailure.DENY) and counter.limit.mode is Mode.ENFORCE for counter in counters)
        shared = [
            (self._shared(counter), 0 if denied else cost)
            for counter, cost in zip(counters, costs, strict=True)
            if _does(counter, OnStoreFailure.LOCAL)
        ]
        try:
            verdict = self._store.decide([counter for counter, _ in shared], [cost for _, cost in shared], check_id)
        except StoreFull:
            return Verdict(False, self._clock(), [_DENIED] * len(counters), degraded=True, denied=True)
        if isinstance(verdict, Verdict):
            return self._answer(counters, costs, verdict, denied=denied, may_have_run=may_have_run)
        return self._answer_later(counters, costs, verdict, denied=denied, may_have_run=may_have_run)

    def decide_once(
        self,
        once: Once,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        *,
        may_have_run: bool = False,
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check, or finds the verdict that this node gave."""
        return self._decided.decide(
            once, check_id, counters, lambda: self.decide(counters, costs, check_id, may_have_run=may_have_run)
        )

    def decided(self, once: Once) -> Repeat | Awaitable[Repeat] | None:
        """The verdict that this node gave by itself, if it did."""
        return self._decided.find(once)

    async def charge(self, counters: Sequence[Counter], costs: Sequence[int]) -> None:
        """Charges even past the share."""
        await self._store.charge([self._shared(counter) for counter in counters], costs)
        self._owe(counters, costs, self._clock(), may_have_run=False)

    async def release(self, counters: Sequence[Counter], costs: Sequence[int], check_id: str) -> None:
        """Frees the slots that ``check_id`` was given here."""
        await self._store.release(counters, costs, check_id)

    async def reset(self, counters: Sequence[Counter]) -> None:
        """Forgets what was charged here."""
        await self._store.reset(counters)
        for counter in counters:
            self._owed.pop(counter.key, None)

    def take_back(self, counters: Sequence[Counter], costs: Sequence[int], verdict: Verdict) -> None:
        """Undoes what ``verdict``, which admitted, has charged: the check is refused elsewhere."""
        for counter, cost, outcome in zip(counters, costs, verdict.outcomes, strict=True):
            if cost and outcome.admitted and _does(counter, OnStoreFailure.LOCAL):
                self._store.refund(self._shared(counter), cost, verdict.now_us)
                owed, units, at_us = self._owed.get(counter.key, (counter, 0, 0))
                if units:
                    self._owed[counter.key] = owed, max(0, units - cost), at_us

    async def take_owed(self, is_back: Callable[[str], bool] = lambda _key: True) -> list[tuple[Counter, int]]:
        """What was charged here since the last time and still counts, for the shared store, where the counter ``is_back``.

        Shares stay used, so that a store that comes and goes does not bring a new one each time; quotas are learned again.
        """
        await self._remember(is_back)
        taken = {key: owed for key, owed in self._owed.items() if is_back(key)}
        still = [(counter, self._still_counting(counter, units, at_us)) for counter, units, at_us in taken.values()]
        quotas = {key: counter for key, counter in self._quotas.items() if is_back(key)}
        await self._store.reset(list(quotas.values()))
        for key, counter in quotas.items():
            self._shares.pop((id(counter.limit), key), None)  # made of what was used before
        for known in (self._used, self._quotas):
            for key in quotas:
                known.pop(key, None)
        for key in taken:
            del self._owed[key]
        return [(counter, units) for counter, units in still if units > 0]

    async def hand_over(self) -> None:
        """Tells the ledger what is still owed of quotas, where this node ends and won't charge the store."""
        known, now_us = self._used, self._clock()
        owed = {counter.key: (counter.limit.algorithm, units) for counter, units in await self.take_owed()}
        periods = {key: period_of(rule, now_us) for key, (rule, _) in owed.items() if isinstance(rule, Quota)}
        if self._ledger is None or not periods:
            return
        used = known | await _used_within(self._ledger, periods, LEDGER_TIMEOUT_SECONDS)
        for key, (start_us, _) in periods.items():
            self._ledger.note(key, start_us, used.get(key, 0) + owed[key][1], now_us)

    # --- the ledger of quotas, as the memory store sees it --------------------------------------------------------------

    async def load(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        """What was used before this node was on its own (port ``QuotaLedger``)."""
        return {key: self._used.get(key, 0) for key in counter_keys}

    def note(self, counter_key: str, period_start_us: int, used: int, at_us: int) -> None:
        """Says nothing (port ``QuotaLedger``).

        The ledger keeps what the store said: a store that lost its state is seeded from it, and then charged what is owed.
        """

    # --- inside ---------------------------------------------------------------------------------------------------------

    async def _decide_after(
        self,
        known: Awaitable[None],
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        *,
        may_have_run: bool,
    ) -> Verdict:
        await known
        verdict = self.decide(counters, costs, check_id, may_have_run=may_have_run)
        return verdict if isinstance(verdict, Verdict) else await verdict

    async def _learn(self, ledger: QuotaLedger, unknown: Sequence[Counter]) -> None:
        """Asks the ledger, but not for long: where it is gone too, this node counts its share from zero."""
        now_us = self._clock()
        periods = {counter.key: period_of(counter.limit.algorithm, now_us) for counter in unknown}  # type: ignore[arg-type]
        used = await _used_within(ledger, periods, LEDGER_TIMEOUT_SECONDS)
        for counter in unknown:
            if counter.key not in self._used:
                rule = counter.limit.algorithm
                assert isinstance(rule, Quota)
                if counter.key in used or not self._recall(counter, rule, period_of(rule, now_us)[1]):
                    self._used[counter.key] = used.get(counter.key, 0)
            self._quotas[counter.key] = counter

    def _recall(self, counter: Counter, rule: Quota, longest_us: int) -> bool:
        """Whether it is known how this period's quota stood at most so long ago; goes on from there."""
        recent, now_us = self._recent.get(counter.key), self._clock()
        if recent is None or recent.period_start_us != period_of(rule, now_us)[0] or now_us - recent.at_us > longest_us:
            return False
        self._used[counter.key] = recent.used
        self._quotas[counter.key] = counter
        return True

    async def _remember(self, is_back: Callable[[str], bool]) -> None:
        """Keeps how quotas stand, with what was admitted here."""
        now_us = self._clock()
        self._recent = {key: recent for key, recent in self._recent.items() if now_us - recent.at_us <= RECENT_US}
        quotas = [(key, counter) for key, counter in self._quotas.items() if is_back(key)]
        for number, (key, counter) in enumerate(quotas):
            if number % _REMEMBERED_AT_ONCE == 0:
                await asyncio.sleep(0)  # checks go on meanwhile
            rule = counter.limit.algorithm
            assert isinstance(rule, Quota)
            shared = self._shared(counter)
            asked = self._store.decide([shared], [0])
            verdict = asked if isinstance(asked, Verdict) else await asked
            used = shared.limit.algorithm.ceiling - verdict.outcomes[0].remaining
            self._recent[key] = QuotaUse(key, period_of(rule, now_us)[0], used, now_us)

    def _shared(self, counter: Counter) -> Counter:
        """The counter of this node's share."""
        limit, nodes = counter.limit, max(1, self._live_nodes())
        name = (id(limit), counter.key if isinstance(limit.algorithm, Quota) else "")
        found = self._shares.get(name)
        if found is None or found[0] is not limit or found[1] != nodes:
            if len(self._shares) >= MAX_SHARES:
                self._shares.clear()
            share = replace(limit, algorithm=_share(limit.algorithm, nodes, self._used.get(counter.key, 0)))
            found = self._shares[name] = (limit, nodes, share)
        return Counter(counter.key, found[2], None, counter.overflow_key)

    def _answer(
        self, counters: Sequence[Counter], costs: Sequence[int], verdict: Verdict, *, denied: bool, may_have_run: bool
    ) -> Verdict:
        shared = iter(verdict.outcomes)
        outcomes = [
            next(shared)
            if _does(counter, OnStoreFailure.LOCAL)
            else _DENIED
            if _does(counter, OnStoreFailure.DENY)
            else Outcome(True, counter.limit.algorithm.ceiling, 0, 0)
            for counter in counters
        ]
        admitted = verdict.admitted and not denied
        if admitted:
            charged = [cost if outcome.admitted else 0 for cost, outcome in zip(costs, outcomes, strict=True)]
            self._owe(counters, charged, verdict.now_us, may_have_run=may_have_run)
        return Verdict(admitted, verdict.now_us, outcomes, degraded=True, denied=denied)

    async def _answer_later(
        self,
        counters: Sequence[Counter],
        costs: Sequence[int],
        pending: Awaitable[Verdict],
        *,
        denied: bool,
        may_have_run: bool,
    ) -> Verdict:
        return self._answer(counters, costs, await pending, denied=denied, may_have_run=may_have_run)

    def _owe(self, counters: Sequence[Counter], costs: Sequence[int], now_us: int, *, may_have_run: bool) -> None:
        for counter, cost in zip(counters, costs, strict=True):
            rule = counter.limit.algorithm
            if not cost or isinstance(rule, Concurrency):
                continue
            _, units, at_us = self._owed.get(counter.key, (counter, 0, now_us))
            if isinstance(rule, Quota):
                if may_have_run or self._is_kept(counter):  # a window charged twice passes, a quota does not
                    continue
                if not _same_period(rule, at_us, now_us):
                    units = 0
            self._owed[counter.key] = (counter, units + cost, now_us)

    def _still_counting(self, counter: Counter, units: int, at_us: int) -> int:
        """How many of the ``units`` charged up to ``at_us`` a limit still counts."""
        rule = counter.limit.algorithm
        if isinstance(rule, Quota):
            return units if _same_period(rule, at_us, self._clock()) else 0
        if not _does(counter, OnStoreFailure.LOCAL):
            return 0
        shared = self._shared(counter)
        verdict = self._store.decide([shared], [0])
        assert isinstance(verdict, Verdict)
        share = shared.limit.algorithm
        most = share.burst if isinstance(share, TokenBucket) else share.requests
        return min(units, most - verdict.outcomes[0].remaining)


_DENIED = Outcome(False, 0, RETRY_DENIED_US, RETRY_DENIED_US)


async def _used_within(
    ledger: QuotaLedger, periods: Mapping[str, tuple[int, int]], timeout_seconds: float
) -> dict[str, int]:
    """What the ledger says; nothing where it can't say in time."""
    try:
        return await asyncio.wait_for(load_used(ledger, periods), timeout_seconds)
    except (StoreUnavailable, TimeoutError):
        return {}


def _does(counter: Counter, what: OnStoreFailure) -> bool:
    return counter.limit.on_store_failure is what


def _same_period(rule: Quota, one_us: int, other_us: int) -> bool:
    return period_of(rule, one_us) == period_of(rule, other_us)


def _share(rule: Algorithm, nodes: int, used: int) -> Algorithm:
    """The part of ``rule`` that one of ``nodes`` may admit by itself; of a quota, beside what is ``used`` already."""
    share = max(1, rule.requests // nodes)
    if isinstance(rule, Quota):
        return replace(rule, requests=min(rule.requests, used + share))
    if isinstance(rule, TokenBucket):
        return replace(rule, requests=share, burst=max(1, rule.burst // nodes))
    return replace(rule, requests=share)
