"""Counters in this process: the pure algorithms over a dictionary, with nothing in between.

Owns: which states live, when idle ones are forgotten, what happens when there is no room.
Does not own: how limits decide (``core.rate_limiter``), what quotas used before (``QuotaLedger``).

Everything happens in one thread, between two awaits, so nothing needs a lock.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Mapping, Sequence

from msgspec.structs import replace

from apishield.core.model import Algorithm, Concurrency, Counter, Once, Quota, ReadyCounters, Verdict
from apishield.core.ports import Clock, Held, Hold, QuotaLedger
from apishield.core.rate_limiter import concurrency, quota
from apishield.core.rate_limiter.states import NEVER_US, State
from apishield.core.rate_limiter.verdict import Found, decide, decide_found, decide_known, new_state
from apishield.errors import QuotaUnknown, StoreFull
from apishield.stores.decided import DecidedChecks
from apishield.stores.records import Records
from apishield.stores.room import Room

FORGET_AT_ONCE = 32  # idle counters looked at by one check, so that none of them waits long
FORGET_WHEN_FULL = 4096
_FINEST_BITS = 20  # expiries are filed together by the second or so (2²⁰ µs)
REMEMBERED_US = 1 << _FINEST_BITS  # for how long an idle counter is kept: a clock that steps back a little finds it


class MemoryStore:
    """A ``CounterStore`` for one process. ``decide`` answers at once, save where a quota must be seeded from ``ledger``.

    Holds up to ``max_counters``, of which no tenant and no crowd may take all (``Room``), unless the store is not
    ``shared`` by tenants. A live counter is never given up: where there is no room, a check that needs a new one shares its
    overflow counter, where it has one, or else raises ``StoreFull``.
    """

    def __init__(
        self, clock: Clock, ledger: QuotaLedger | None = None, max_counters: int = 1_000_000, *, shared: bool = True
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._room = Room(max_counters, shared=shared)
        self._states: dict[str, State] = {}
        self._records = Records()
        self._decided = DecidedChecks(clock)
        self._expiring: dict[int, list[str]] = {}  # keys by when to look whether they are idle, see _file
        self._expiries: list[int] = []  # a heap of the keys of _expiring
        self._look_at_us = NEVER_US
        self._forgot_us = 0  # what was forgotten by then may not count again, so no new counter's clock goes before

    def __len__(self) -> int:
        """How many counters it holds, idle ones included that it has not forgotten yet."""
        return len(self._states)

    def decide(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check (port ``CounterStore``)."""
        if hold is not None:
            return self._decide_and_hold(counters, costs, check_id, hold)
        clock = self._clock  # called by its own name: Python has no short cut for calling what a field holds
        now_us = clock()
        if now_us >= self._look_at_us:
            self._forget_idle(now_us, FORGET_AT_ONCE, REMEMBERED_US)
        found: Found | None = counters.found if type(counters) is ReadyCounters else None
        try:
            if found is not None and found.known is self._states:
                verdict = decide_found(found, counters, costs, now_us, check_id)
            else:
                verdict = decide_known(self._states, counters, costs, now_us, check_id)
        except quota.Unseeded:
            verdict = None
        if verdict is None:
            return self._decide_prepared(counters, costs, check_id, now_us)
        if self._ledger is not None and _counts_quotas(counters):
            self._note(self._ledger, counters, costs, verdict.now_us, admitted=verdict.admitted)
        return verdict

    def send(self) -> None:
        """Nothing waits to be sent (port ``CounterStore``)."""

    def decide_once(
        self,
        once: Once,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        hold: Hold | None = None,
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check, or finds the verdict that it got (port ``CounterStore``)."""
        return self._decided.decide(once, check_id, counters, lambda: self.decide(counters, costs, check_id, hold))

    async def charge(self, counters: Sequence[Counter], costs: Sequence[int]) -> None:
        """Charges even past the limits (port ``CounterStore``)."""
        counters = [self._as_asked_last(counter) for counter in counters]
        verdict = self.decide(counters, [0] * len(counters))  # seeds quotas
        now_us = (verdict if isinstance(verdict, Verdict) else await verdict).now_us
        keys, states = self._find(counters, costs, now_us)
        for counter, key, state, cost in zip(counters, keys, states, costs, strict=True):
            state.fits(now_us, 0)
            state.charge(now_us, cost)
            self._keep(counter, key, state, now_us)
        if self._ledger is not None:
            self._note(self._ledger, counters, costs, now_us, admitted=True)

    async def held(self, record_key: str) -> Held | None:
        """The record of a check (port ``CounterStore``)."""
        return self._records.get(record_key, self._clock())

    async def settle(self, record_key: str, held: Held, costs: Sequence[int], check_id: str) -> bool:
        """Settles a check, once (port ``CounterStore``)."""
        now_us = self._clock()
        if not self._records.take(record_key, now_us):
            return False
        more: list[tuple[Counter, int]] = []
        for counter, before, after in zip(held.counters, held.costs, costs, strict=True):
            state = self._states.get(counter.key)
            if isinstance(counter.limit.algorithm, Concurrency):
                if isinstance(state, concurrency.State):  # else its slots have timed out, and nothing is left of it
                    state.release(check_id, before)
            elif after > before:
                more.append((counter, after - before))
            else:
                self.refund(counter, before - after, held.charged_at_us)
        if more:
            await self.charge([counter for counter, _ in more], [cost for _, cost in more])
        return True

    def refund(self, counter: Counter, units: int, charged_at_us: int) -> None:
        """Takes back ``units`` that were charged at ``charged_at_us``, as far as they still count."""
        state = self._states.get(counter.key)
        if state is None:
            return
        now_us = max(self._clock(), state.seen_us)
        state.refund(now_us, charged_at_us, units)
        if self._ledger is not None and isinstance(state, quota.State):
            self._ledger.note(counter.key, state.start_us, state.used, now_us)

    def quota_standing(self, counter: Counter) -> quota.Standing | None:
        """How a quota stands; the same twice says that nothing was charged or given back between."""
        state = self._states.get(counter.key)
        return quota.Standing(state.start_us, state.used, state.seen_us) if isinstance(state, quota.State) else None

    async def release(self, counters: Sequence[Counter], costs: Sequence[int], check_id: str) -> None:
        """Frees the slots that ``check_id`` holds (port ``CounterStore``)."""
        for counter, cost in zip(counters, costs, strict=True):
            state = self._states.get(counter.key)
            if isinstance(state, concurrency.State):
                state.release(check_id, cost)

    async def reset(self, counters: Sequence[Counter]) -> None:
        """Forgets the state of ``counters`` (port ``CounterStore``)."""
        for counter in counters:
            state = self._states.get(counter.key)
            if state is not None:
                state.let_go()
                self._states[counter.key] = new_state(counter.limit.algorithm)  # in its place: its expiry is filed

    async def close(self) -> None:
        """Forgets everything."""
        self._states = {}
        self._room.clear()
        self._records.clear()
        self._decided.clear()
        self._expiring.clear()
        self._expiries.clear()
        self._look_at_us = NEVER_US

    def _decide_and_hold(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str, hold: Hold
    ) -> Verdict | Awaitable[Verdict]:
        verdict = self.decide(counters, costs, check_id)
        if isinstance(verdict, Verdict):
            return self._hold(counters, costs, hold, verdict)
        return self._hold_later(counters, costs, hold, verdict)

    async def _hold_later(
        self, counters: Sequence[Counter], costs: Sequence[int], hold: Hold, pending: Awaitable[Verdict]
    ) -> Verdict:
        return self._hold(counters, costs, hold, await pending)

    def _hold(self, counters: Sequence[Counter], costs: Sequence[int], hold: Hold, verdict: Verdict) -> Verdict:
        if verdict.admitted:
            held = Held(tuple(counters), tuple(costs), hold.factors, hold.settles, verdict.now_us)
            self._records.put(hold.record_key, held, hold.seconds)
        return verdict

    def _decide_prepared(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str, now_us: int
    ) -> Verdict | Awaitable[Verdict]:
        """Decides where a counter is new, unseeded, or asked under changed numbers."""
        keys, states = self._find(counters, costs, now_us)
        now_us = max(now_us, self._forgot_us, *(state.seen_us for state in states))
        unseeded: list[tuple[Counter, str, quota.State]] = []
        for counter, key, state in zip(counters, keys, states, strict=True):
            if state.rule is not counter.limit.algorithm:
                state.adopt(counter.limit.algorithm, now_us)
            if isinstance(state, quota.State) and now_us >= state.end_us:
                unseeded.append((counter, key, state))
        if unseeded and self._ledger is not None:
            periods = {key: quota.period_of(state.rule, now_us) for _, key, state in unseeded}
            return self._seed_and_decide(self._ledger, unseeded, periods, counters, costs, check_id, now_us)
        for _, _, state in unseeded:
            state.seed(*quota.period_of(state.rule, now_us), 0)
        verdict = decide(counters, states, costs, now_us, check_id)
        for counter, key, state in zip(counters, keys, states, strict=True):
            self._keep(counter, key, state, now_us)
        if type(counters) is ReadyCounters:
            self._remember(counters, states)
        if self._ledger is not None:
            self._note(self._ledger, counters, costs, verdict.now_us, admitted=verdict.admitted)
        return verdict

    async def _seed_and_decide(
        self,
        ledger: QuotaLedger,
        unseeded: Sequence[tuple[Counter, str, quota.State]],
        periods: Mapping[str, tuple[int, int]],
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        now_us: int,
    ) -> Verdict:
        """Asks the ledger about ``periods`` of which nothing is known here, then decides."""
        used = await load_used(ledger, periods)
        for counter, key, asked in unseeded:
            state = self._states.get(key)
            if state is None:  # it was not kept yet, or was let go of meanwhile
                state = asked if asked.rule is not None else new_state(counter.limit.algorithm)
            if isinstance(state, quota.State) and now_us >= state.end_us:  # nobody else has seeded it meanwhile
                state.seed(*periods[key], used.get(key, 0))
                self._keep(counter, key, state, now_us)
        verdict = self.decide(counters, costs, check_id)
        return verdict if isinstance(verdict, Verdict) else await verdict

    def _as_asked_last(self, counter: Counter) -> Counter:
        """The counter under the numbers it was asked under last, as long as they count: a check may be settled long after."""
        state = self._states.get(counter.key)
        if state is None or state.rule is None or state.expires_at_us() <= self._clock():
            return counter
        return replace(counter, limit=replace(counter.limit, algorithm=state.rule))

    def _find(self, counters: Sequence[Counter], costs: Sequence[int], now_us: int) -> tuple[list[str], list[State]]:
        """The keys and states of ``counters``, with fresh states, not kept yet, for those that are new."""
        keys: list[str] = []
        states: list[State] = []
        for counter, cost in zip(counters, costs, strict=True):
            key, state = counter.key, self._states.get(counter.key)
            if state is None and cost and not self._has_room(counter, len(counters), now_us):
                if counter.overflow_key is None:
                    raise StoreFull(
                        f"The memory store holds {len(self._states):,} live counters and has no room for more of these."
                    )
                key, state = counter.overflow_key, self._states.get(counter.overflow_key)
            keys.append(key)
            states.append(new_state(counter.limit.algorithm) if state is None else state)
        return keys, states

    def _has_room(self, counter: Counter, wanted: int, now_us: int) -> bool:
        anonymous = counter.overflow_key is not None
        if self._room.fits(counter.key, wanted, anonymous=anonymous):
            return True
        self._forget_idle(now_us, FORGET_WHEN_FULL, 0)
        return self._room.fits(counter.key, wanted, anonymous=anonymous)

    def _note(
        self, ledger: QuotaLedger, counters: Sequence[Counter], costs: Sequence[int], now_us: int, *, admitted: bool
    ) -> None:
        """Tells the ledger how quotas stand that were charged at ``now_us``."""
        for counter, cost in zip(counters, costs, strict=True):
            if type(counter.limit.algorithm) is Quota and cost and (admitted or counter.limit.charge_refused):
                state = self._states.get(counter.key)
                if isinstance(state, quota.State) and state.seen_us == now_us:
                    ledger.note(counter.key, state.start_us, state.used, now_us)

    # --- forgetting ---------------------------------------------------------------------------------------------------

    def _keep(self, counter: Counter, key: str, state: State, now_us: int) -> None:
        """Holds on to a new state, if it says more than none; else nobody may ask it again who found it before."""
        if key in self._states:
            return
        expires_us = state.expires_at_us()
        if expires_us <= now_us:
            state.let_go()
        else:
            anonymous = counter.overflow_key is not None and key != counter.overflow_key
            self._states[key] = state
            self._room.take(key, anonymous=anonymous)
            self._file(key, expires_us, now_us, anonymous=anonymous)

    def _remember(self, counters: ReadyCounters, states: list[State]) -> None:
        """Spares the next check of these counters to look for their states, if all of them are held here."""
        rules: list[Algorithm] = []
        for counter, state in zip(counters, states, strict=True):
            if self._states.get(counter.key) is not state:
                return
            rules.append(counter.limit.algorithm)
        counters.found = Found(self._states, states, rules)

    def _file(self, key: str, expires_us: int, now_us: int, *, anonymous: bool) -> None:
        """Notes to look at ``key`` once it may be idle; every key held is filed exactly once.

        At least a second later, so that a clock that steps back a little finds it, and the later the longer it lives: up
        to about 6 %, so that few files are open. The lowest bit of a file's time, which says nothing, says whether the keys
        in it are of anonymous subjects.
        """
        shift = max(_FINEST_BITS, (expires_us - now_us).bit_length() - 6)
        look_at_us = (((expires_us >> shift) + 2) << shift) | anonymous
        keys = self._expiring.get(look_at_us)
        if keys is None:
            self._expiring[look_at_us] = [key]
            heapq.heappush(self._expiries, look_at_us)
            self._look_at_us = self._expiries[0]
        else:
            keys.append(key)

    def _forget_idle(self, now_us: int, at_most: int, idle_us: int) -> None:
        """Looks at up to ``at_most`` counters that may have been idle for ``idle_us``; the others are filed again."""
        while at_most and self._expiries and self._expiries[0] <= now_us:
            look_at_us = self._expiries[0]
            keys, anonymous = self._expiring[look_at_us], bool(look_at_us & 1)
            while keys and at_most:
                at_most -= 1
                key = keys.pop()
                state = self._states[key]
                expires_us = state.expires_at_us()
                if expires_us <= now_us - idle_us:
                    state.let_go()
                    del self._states[key]
                    self._room.leave(key, anonymous=anonymous)
                    self._forgot_us = max(self._forgot_us, expires_us)
                else:
                    self._file(key, expires_us, now_us, anonymous=anonymous)
            if not keys:
                del self._expiring[heapq.heappop(self._expiries)]
        self._look_at_us = self._expiries[0] if self._expiries else NEVER_US


def _counts_quotas(counters: Sequence[Counter]) -> bool:
    for counter in counters:  # noqa: SIM110  any() costs a check three times as much
        if type(counter.limit.algorithm) is Quota:
            return True
    return False


async def load_used(ledger: QuotaLedger, periods: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """What the ledger knows of the use of counters in their ``periods`` (key → start, end).

    Raises ``QuotaUnknown`` where it can't tell: a quota of unknown use must not count from zero.
    """
    used: dict[str, int] = {}
    try:
        for start_us in {start_us for start_us, _ in periods.values()}:
            keys = [key for key, period in periods.items() if period[0] == start_us]
            used.update(await ledger.load(keys, start_us))
    except Exception as error:
        raise QuotaUnknown("The ledger of quotas can't be read.") from error
    return used
