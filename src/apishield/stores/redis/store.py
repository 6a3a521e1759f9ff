"""Counters in Redis, shared by all nodes: one script call decides the checks of a loop turn.

Owns: batching, the time-out, what a server's error means, seeding quotas.
Does not own: how limits decide (``lua/``), connections (``link``, ``servers``), what to do without Redis (``stores.failover``).

The checks that come in during one turn of the event loop go out together when it ends: those of one tenant as one call of
up to 32 verdicts, the calls of the turn in one write. Of more, the first 32 go at once and the others in the turns that follow,
so that Redis works on the first while we write the next. A call that timed out may have run; its charges stand, and it is
never sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from copy import copy

import msgspec
from msgspec.structs import replace

from apishield.core.counter_keys import hash_tag
from apishield.core.model import Concurrency, Counter, Once, Quota, Verdict
from apishield.core.ports import Clock, Held, Hold, QuotaLedger
from apishield.core.rate_limiter.quota import period_of
from apishield.errors import CounterUnreadable, NoAnswer, QuotaUnknown, StoreUnavailable
from apishield.later import Later
from apishield.stores.memory import load_used
from apishield.stores.redis.codec import (
    Answer,
    Ask,
    Notes,
    QuotaCharges,
    Record,
    Step,
    Unreadable,
    Unseeded,
    decode_record,
    encode_once,
    encode_record,
    evaluate,
    verdicts,
)
from apishield.stores.redis.runs import NO_EVICTION, reach_back
from apishield.stores.redis.script import command
from apishield.stores.redis.servers import Servers, servers_of

VERDICTS_A_CALL = 32
COUNTERS_A_CALL = 256  # keeps a call within about a millisecond of Redis
CALLS_UNDER_WAY = 16  # about 5 ms of Redis' work
MAX_RESENT = 3
_ONE_TURN_SECONDS = 0.001
STUCK_AFTER_SECONDS = 1.0


class RedisStore:
    """A ``CounterStore`` in Redis 6.2 or later: one server, Sentinel (``redis+sentinel://``) or Cluster (``redis+cluster://``).

    Decides by the server's time. ``test_clock`` replaces it, for tests that own the time; the keys then live a minute longer.
    """

    def __init__(
        self,
        url: str,
        ledger: QuotaLedger | None = None,
        *,
        timeout_ms: int = 50,
        test_clock: Clock | None = None,
    ) -> None:
        self.servers: Servers = servers_of(url)
        self.timeout_seconds = timeout_ms / 1000
        self._ledger = ledger
        self._test_clock = test_clock
        self._asked: list[Ask] = []
        self._lanes: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def decide(
        self, counters: Sequence[Counter], costs: Sequence[int], check_id: str = "", hold: Hold | None = None
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check, together with all others of this turn of the event loop (port ``CounterStore``)."""
        if not counters and hold is None:
            return Verdict(True, self._test_clock() if self._test_clock else time.time_ns() // 1000, [])
        notes = None if hold is None else Notes(encode_record(counters, costs, hold))
        return self._submit(counters, costs, check_id, Step.DECIDE, notes)

    def send(self) -> None:
        """Sends what was asked in this turn (port ``CounterStore``)."""
        if self._asked:
            self._flush()

    def decide_once(
        self,
        once: Once,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        hold: Hold | None = None,
    ) -> Verdict | Awaitable[Verdict]:
        """Decides one check, or finds the verdict that it got (port ``CounterStore``): in the same call of the script."""
        record = None if hold is None else encode_record(counters, costs, hold)
        notes = Notes(record, encode_once(counters, costs, check_id, once))
        return self._submit(counters, costs, check_id, Step.DECIDE, notes)

    async def charge(self, counters: Sequence[Counter], costs: Sequence[int]) -> None:
        """Charges even past the limits (port ``CounterStore``)."""
        if counters:
            await self._submit(counters, costs, "", Step.FORCE)

    async def held(self, record_key: str) -> Held | None:
        """The record of a check (port ``CounterStore``)."""
        reading = _Reading(self.timeout_seconds)
        self.servers.send(record_key, command("GET", record_key), reading)
        kept = await reading.reply
        return decode_record(kept) if isinstance(kept, bytes) else None

    async def settle(self, record_key: str, held: Held, costs: Sequence[int], check_id: str) -> bool:
        """Settles a check, once (port ``CounterStore``)."""
        missing = [
            before if isinstance(counter.limit.algorithm, Concurrency) else after - before
            for counter, before, after in zip(held.counters, held.costs, costs, strict=True)
        ]
        verdict = await self._submit(
            held.counters, missing, check_id, Step.SETTLE, Notes(Record(record_key)), held.charged_at_us
        )
        return verdict.admitted

    async def release(self, counters: Sequence[Counter], costs: Sequence[int], check_id: str) -> None:
        """Frees the slots that ``check_id`` holds (port ``CounterStore``)."""
        slots = [
            (counter, cost)
            for counter, cost in zip(counters, costs, strict=True)
            if isinstance(counter.limit.algorithm, Concurrency)
        ]
        if slots:
            await self._submit([counter for counter, _ in slots], [cost for _, cost in slots], check_id, Step.RELEASE)

    async def reset(self, counters: Sequence[Counter]) -> None:
        """Forgets the state of ``counters`` (port ``CounterStore``)."""
        if counters:
            await self._submit(counters, [0] * len(counters), "", Step.RESET)

    def warnings(self) -> list[str]:
        """What is wrong with the servers, as they said last; asks them again, for the next time."""
        nodes = self.servers.nodes()
        for node in nodes:
            node.ask_for_facts()
        policies = sorted({node.runs.facts.maxmemory_policy for node in nodes if node.runs.facts.evicts})
        return [f"Redis has maxmemory-policy {policy}. {NO_EVICTION}" for policy in policies]

    async def close(self) -> None:
        """Lets go of connections; whoever still waits gets ``StoreUnavailable``."""
        for lane in self._lanes.values():
            lane.fail_waiting(StoreUnavailable("The store is closed."))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.servers.close()

    def place_of(self, key: str) -> str:
        """Which server decides over ``key``; nothing where there is but one."""
        return self.servers.place_of(key)

    def resolve(self, asks: Sequence[Ask], answer: bytes, kept: Sequence[bytes] = ()) -> None:
        """Hands out the verdicts of ``answer``, and tells the ledger of the quotas that were charged."""
        charges: QuotaCharges | None = None if self._ledger is None else {}
        answers = verdicts(asks, answer, kept, charges)
        if self.servers.may_have_forgotten:
            answers = self._marked(asks, answers)
        for ask, verdict in zip(asks, answers, strict=True):
            if isinstance(verdict, Unseeded):
                self._seed_later(ask, verdict.now_us)
            elif isinstance(verdict, Unreadable):
                ask.verdict.fail(CounterUnreadable(verdict.key, verdict.why))
            else:
                ask.verdict.resolve(verdict)
        if self._ledger is not None and charges:
            for (counter_key, period_start_us), (used, at_us) in charges.items():
                self._ledger.note(counter_key, period_start_us, used, at_us)

    def _marked(self, asks: Sequence[Ask], answers: Iterator[Answer]) -> Iterator[Answer]:
        """The verdicts; ``degraded`` where a limit reaches back to when the server may have lost charges."""
        servers = self.servers
        node = servers.node_of(asks[0].key)
        for ask, verdict in zip(asks, answers, strict=True):
            if node is None or isinstance(verdict, Unseeded | Unreadable):
                yield verdict
                continue
            lost_at_us = node.runs.lost_at_us(verdict.now_us)
            if lost_at_us is None:
                yield verdict
            elif reach_back(ask.counters, verdict.now_us, lost_at_us):
                yield replace(verdict, degraded=True)
            else:
                yield verdict
        servers.may_have_forgotten = any(node.runs.may_have_forgotten for node in servers.nodes())

    def _submit(
        self,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str,
        step: Step,
        notes: Notes | None = None,
        charged_us: int = 0,
    ) -> Later[Verdict]:
        ask = Ask(counters, costs, check_id, step)
        if notes is not None:
            ask.notes, ask.charged_us = notes, charged_us
            named = notes.once or notes.record
            if named is not None:
                ask.key = named.key  # there may be no counters
        self._put(ask)
        return ask.verdict

    def _put(self, ask: Ask) -> None:
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._flush)
        self._asked.append(ask)

    def _flush(self) -> None:
        """Sends what was asked in this turn and is not sent yet."""
        asks, self._asked = self._asked, []
        groups: dict[str, list[Ask]] = {}
        for ask in asks:
            groups.setdefault(hash_tag(ask.key), []).append(ask)
        now_us = self._test_clock() if self._test_clock else 0
        for group in groups.values():
            place = self.place_of(group[0].key)
            lane = self._lanes.get(place)
            if lane is None:
                lane = self._lanes[place] = Lane(self)
            lane.send(_chunks(group), now_us)

    def _seed_later(self, ask: Ask, now_us: int) -> None:
        task = asyncio.get_running_loop().create_task(self._seed(ask, now_us))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _seed(self, ask: Ask, now_us: int) -> None:
        """Tells the script what the ledger knows, and asks again.

        A check waits for that no longer than for Redis; the next one then finds the counter seeded.
        """
        slow = QuotaUnknown("The ledger of quotas is slow.")
        timer = asyncio.get_running_loop().call_later(self.timeout_seconds, ask.verdict.fail, slow)
        rules = {counter.key: counter.limit.algorithm for counter in ask.counters}
        periods = {key: period_of(rule, now_us) for key, rule in rules.items() if isinstance(rule, Quota)}
        try:
            used = {} if self._ledger is None else await load_used(self._ledger, periods)
        except QuotaUnknown as error:
            ask.verdict.fail(error)
            return
        finally:
            timer.cancel()
        if ask.verdict.is_settled:  # decided elsewhere, so nothing may be charged here
            ask = Ask(ask.counters, [0] * len(ask.counters))
        ask.seeds = {key: (start_us, end_us, used.get(key, 0)) for key, (start_us, end_us) in periods.items()}
        self._put(ask)


class Lane:
    """The calls to one server: while one of several is silent, those to the others go on."""

    __slots__ = ("_goes_on", "_store", "_under_way", "_waiting")

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._waiting: deque[tuple[list[Ask], int]] = deque()
        self._under_way = 0
        self._goes_on = False  # in the next turn

    def send(self, chunks: Iterable[list[Ask]], now_us: int) -> None:
        """Sends calls for as long as few are under way: what waits behind our own calls is not waiting for Redis."""
        self._waiting.extend((chunk, now_us) for chunk in chunks)
        if not self._goes_on:
            self._go_on()

    def over(self) -> None:
        """A call is over; the next may go."""
        self._under_way -= 1
        if self._waiting and not self._goes_on:
            self._go_on()

    def fail_waiting(self, error: StoreUnavailable) -> None:
        """The server is silent: who waits to be sent would only wait longer."""
        waiting, self._waiting = self._waiting, deque()
        for chunk, _ in waiting:
            _fail(chunk, error)

    def _go_on(self) -> None:
        self._goes_on = False
        verdicts = 0
        while self._waiting and self._under_way < CALLS_UNDER_WAY:
            if verdicts >= VERDICTS_A_CALL:
                self._goes_on = True
                asyncio.get_running_loop().call_soon(self._go_on)
                return
            chunk, now_us = self._waiting.popleft()
            self._under_way += 1
            verdicts += len(chunk)
            _Batch(self._store, self, chunk, now_us).send()


class _Reading:
    """A plain command on its way (a ``Call``)."""

    __slots__ = ("_timer", "reply")

    def __init__(self, timeout_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[object] = loop.create_future()
        self._timer = loop.call_later(timeout_seconds, self.lost, StoreUnavailable("Redis did not answer in time."))

    def answered(self, reply: object) -> None:
        """Hands the answer over."""
        if isinstance(reply, Exception):
            self.lost(StoreUnavailable(f"Redis answered: {reply}"))
        elif not self.reply.done():
            self._timer.cancel()
            self.reply.set_result(reply)

    def lost(self, error: StoreUnavailable) -> None:
        """Tells who waits."""
        self._timer.cancel()
        if not self.reply.done():
            self.reply.set_exception(error)


class _Batch:
    """Checks on their way as one call (a ``Call``)."""

    __slots__ = ("_asks", "_command", "_is_open", "_lane", "_resent", "_store", "_timer")

    def __init__(self, store: RedisStore, lane: Lane, asks: Sequence[Ask], now_us: int) -> None:
        self._store = store
        self._lane = lane
        self._asks = asks
        self._command = evaluate(asks, now_us)
        self._resent = 0
        self._is_open = True
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(store.timeout_seconds, self._time_out)

    def send(self) -> None:
        """Sends the call; it is over when it is answered, lost, or out of time."""
        self._store.servers.send(self._key, self._command, self)

    @property
    def _key(self) -> str:
        return self._asks[0].key

    def answered(self, reply: object) -> None:
        """Hands out the verdicts, unless their time is over."""
        if not self._is_open:
            return
        if isinstance(reply, bytes | list):
            try:
                if isinstance(reply, bytes):
                    self._store.resolve(self._asks, reply)
                else:
                    self._store.resolve(self._asks, reply[0], reply[1:])
            except (IndexError, msgspec.MsgspecError) as error:  # nobody may wait for ever
                self.lost(NoAnswer(f"Redis gave an answer that can't be read: {error}"))
            self._close()
            return
        self._resent += 1
        if self._resent > MAX_RESENT or not self._store.servers.resend(self._key, self._command, self, str(reply)):
            self.lost(StoreUnavailable(f"Redis answered: {reply}"))

    def lost(self, error: StoreUnavailable) -> None:
        """Tells all who wait."""
        if self._is_open:
            self._close()
            _fail(self._asks, error)

    def _time_out(self) -> None:
        """Looks once more: where this process was held up, the answer lies in the socket, and uvloop runs timers first."""
        self._timer = asyncio.get_running_loop().call_later(_ONE_TURN_SECONDS, self._give_up)

    def _give_up(self) -> None:
        reason = f"Redis did not answer within {self._store.timeout_seconds * 1000:.0f} ms."
        self._lane.fail_waiting(StoreUnavailable(reason))  # which was not sent, so it can't have run
        self.lost(NoAnswer(reason))
        self._store.servers.give_up_if_silent(self._key, STUCK_AFTER_SECONDS)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._timer.cancel()
            self._lane.over()


def _fail(asks: Iterable[Ask], error: StoreUnavailable) -> None:
    """Tells all who wait, each by an error of its own: one that all of them raise would keep what all of them did alive."""
    for ask in asks:
        ask.verdict.fail(copy(error))


def _chunks(asks: Sequence[Ask]) -> Iterator[list[Ask]]:
    """``asks`` in order, in pieces that keep Redis busy for about a millisecond."""
    chunk: list[Ask] = []
    counters = 0
    for ask in asks:
        if chunk and (len(chunk) == VERDICTS_A_CALL or counters + len(ask.counters) > COUNTERS_A_CALL):
            yield chunk
            chunk, counters = [], 0
        chunk.append(ask)
        counters += len(ask.counters)
    if chunk:
        yield chunk
