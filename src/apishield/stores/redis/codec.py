"""Checks to the arguments of the script, and its answer to verdicts. The script (``lua/decide.lua``) describes both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Protocol

import msgspec

from apishield.core.model import (
    REPEAT_SECONDS,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Mode,
    Once,
    Quota,
    Repeat,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.core.outcome import Outcome
from apishield.core.ports import Held, Hold
from apishield.core.rate_limiter import concurrency, fixed_window, quota, sliding_window, token_bucket
from apishield.later import Later
from apishield.stores.redis.script import SHA1, command

Seed = tuple[int, int, int]
"""A quota's period, as start and end, and the units used in it before."""

_UNSEEDED = 2
_REPEATED = 3
_UNREADABLE = 4
_NO_SEED: Seed = (0, 0, 0)
_NO_SEEDS: Mapping[str, Seed] = {}
_FIRST_RULE = 4  # its place: Lua counts from one, and three numbers stand before it
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[int]).decode
_decode_kept = msgspec.msgpack.Decoder(tuple[float, str]).decode
_decode_held = msgspec.json.Decoder(Held).decode
_encode_json = msgspec.json.Encoder().encode
_decode_decided = msgspec.msgpack.Decoder(tuple[str, list[int]]).decode


class Step(IntEnum):
    """What the script does with a counter."""

    DECIDE = 0
    SHADOW = 1
    DECIDE_OR_PENALIZE = 2
    FORCE = 3
    RELEASE = 4
    RESET = 5
    REFUND = 6
    SETTLE = 7  # the node's word: each counter's is REFUND, FORCE or RELEASE


_DECIDE = Step.DECIDE  # an enumeration's member is slow to look up


class Record(msgspec.Struct, frozen=True):
    """What is kept for ``ttl_ms``; without text it is taken away."""

    key: str
    ttl_ms: int = 0
    text: str = ""


class Notes(msgspec.Struct, frozen=True):
    """What goes with an ask beside its counters: a record of it if it is admitted, and its verdict if it is decided once."""

    record: Record | None = None
    once: Record | None = None


class _Decided(msgspec.Struct, frozen=True, array_like=True):
    """What was asked when a check was decided that is decided once; the script adds the verdict."""

    decision_id: str
    question: str
    counters: tuple[Counter, ...]
    costs: tuple[int, ...]


_decode_asked = msgspec.json.Decoder(_Decided).decode


class Ask:
    """One check on its way: what is asked, and who waits for the verdict."""

    __slots__ = ("charged_us", "check_id", "costs", "counters", "key", "notes", "seeds", "step", "verdict")

    def __init__(
        self,
        counters: Sequence[Counter],
        costs: Sequence[int],
        check_id: str = "",
        step: Step = _DECIDE,
    ) -> None:
        self.key = counters[0].key if counters else ""  # says which slot it goes to
        self.counters = counters
        self.costs = costs
        self.check_id = check_id
        self.verdict: Later[Verdict] = Later()
        self.step = step
        self.seeds = _NO_SEEDS
        self.notes: Notes | None = None
        self.charged_us = 0


class _Asked(Protocol):
    """What must be known of a check to read its verdict."""

    @property
    def counters(self) -> Sequence[Counter]: ...
    @property
    def costs(self) -> Sequence[int]: ...


class Unseeded(msgspec.Struct, frozen=True):
    """The script knows nothing about the quotas of a check in the period around ``now_us``."""

    now_us: int


class Unreadable(msgspec.Struct, frozen=True):
    """Under ``key``, one of a check's, lies what no script of ours wrote; ``why`` is what the server said."""

    key: str
    why: str


Answer = Verdict | Unseeded | Unreadable


def evaluate(asks: Sequence[Ask], now_us: int = 0) -> bytes:
    """The command that decides ``asks``, whose keys share a slot; ``now_us`` is given only by tests, which own the time."""
    indexes: dict[str, int] = {}
    rules: list[int | str] = []
    places: dict[int, int] = {}  # of the rules of limits, which the checks hold on to
    checks: list[int | str] = []
    for ask in asks:
        notes = ask.notes
        if notes is None:
            checks.append(len(ask.counters))
        else:
            checks += (-1 - len(ask.counters), *_placed(notes.record, indexes), *_placed(notes.once, indexes))
        shares_rules = ask.step is _DECIDE and not ask.seeds  # then its limits alone say what is to be done
        for counter, cost in zip(ask.counters, ask.costs, strict=True):
            key, limit = counter.key, counter.limit
            index = indexes.get(key)
            if index is None:
                index = indexes[key] = len(indexes) + 1
            place = places.get(id(limit)) if shares_rules else None
            if place is None:
                place = _FIRST_RULE + len(rules)
                rules += _rule(limit, ask, cost, key)
                if shares_rules and type(limit.algorithm) is not Concurrency:  # whose rule names the check
                    places[id(limit)] = place
            checks += (index, place, cost if cost >= 0 else -cost)
    flat = [now_us, len(asks), _FIRST_RULE + len(rules), *rules, *checks]
    return command(b"EVALSHA", SHA1, len(indexes), *indexes, _encode(flat))


def _placed(note: Record | None, indexes: dict[str, int]) -> tuple[int | str, ...]:
    """The index of a note's key, how long it lives, and its text."""
    if note is None:
        return 0, 0, ""
    return indexes.setdefault(note.key, len(indexes) + 1), note.ttl_ms, note.text


def _rule(limit: Limit, ask: Ask, cost: int, key: str) -> tuple[int | str, ...]:
    """Algorithm, step and four parameters."""
    if ask.step is Step.SETTLE:
        return _settling(limit, ask, cost, key)
    step = ask.step or _STEPS[limit.mode is Mode.SHADOW, limit.charge_refused]
    rule = limit.algorithm
    if isinstance(rule, SlidingWindow):
        return 2, step, rule.requests, rule.window_us, 0, 0
    if isinstance(rule, FixedWindow):
        return 1, step, rule.requests, rule.window_us, 0, 0
    if isinstance(rule, TokenBucket):
        return 3, step, rule.requests, rule.window_us, rule.burst, 0
    if isinstance(rule, Quota):
        return 5, step, rule.requests, *ask.seeds.get(key, _NO_SEED)
    return 4, step, rule.requests, rule.timeout_us, ask.check_id, 0


def _settling(limit: Limit, ask: Ask, cost: int, key: str) -> tuple[int | str, ...]:
    """The same for a check that is settled: ``cost`` is what is missing, or too much where it is negative."""
    rule = limit.algorithm
    if isinstance(rule, Concurrency):
        return 4, Step.RELEASE, rule.requests, rule.timeout_us, ask.check_id, 0
    step = Step.FORCE if cost > 0 else Step.REFUND
    charged_us = ask.charged_us if step is Step.REFUND else 0
    if isinstance(rule, SlidingWindow):
        return 2, step, rule.requests, rule.window_us, 0, charged_us
    if isinstance(rule, FixedWindow):
        return 1, step, rule.requests, rule.window_us, 0, charged_us
    if isinstance(rule, TokenBucket):
        return 3, step, rule.requests, rule.window_us, rule.burst, charged_us
    if step is Step.FORCE:
        return 5, step, rule.requests, *ask.seeds.get(key, _NO_SEED)
    return 5, step, rule.requests, 0, 0, charged_us


_STEPS = {
    (False, False): Step.DECIDE,
    (False, True): Step.DECIDE_OR_PENALIZE,
    (True, False): Step.SHADOW,
    (True, True): Step.SHADOW,
}


QuotaCharges = dict[tuple[str, int], tuple[int, int]]
"""Quotas that were charged, by counter and start of the period: how much is used, and when that was so."""


def encode_record(counters: Sequence[Counter], costs: Sequence[int], hold: Hold) -> Record:
    """What is kept of a check under ``hold``; the script adds the time."""
    held = Held(tuple(counters), tuple(costs), hold.factors, hold.settles)
    return Record(hold.record_key, hold.seconds * 1000, _encode_json(held).decode())


def encode_once(counters: Sequence[Counter], costs: Sequence[int], decision_id: str, once: Once) -> Record:
    """What is kept of a check that is decided ``once``; the script adds the verdict."""
    limits = tuple(Counter("", counter.limit, counter.policy_id) for counter in counters)
    asked = _Decided(decision_id, once.question, limits, tuple(costs))
    return Record(once.key, REPEAT_SECONDS * 1000, _encode_json(asked).decode())


def decode_repeat(kept: bytes) -> Repeat:
    """The verdict that the script kept. Raises ``msgspec.MsgspecError`` for anything else."""
    text, numbers = _decode_decided(kept)
    asked = _decode_asked(text)
    verdict = next(verdicts([asked], _encode(numbers), (), None))
    assert isinstance(verdict, Verdict)
    return Repeat(
        verdict.admitted,
        verdict.now_us,
        verdict.outcomes,
        decision_id=asked.decision_id,
        question=asked.question,
        counters=asked.counters,
    )


def decode_record(kept: bytes) -> Held:
    """What the script kept. Raises ``msgspec.MsgspecError`` for anything else."""
    charged_at_us, text = _decode_kept(kept)
    return msgspec.structs.replace(_decode_held(text), charged_at_us=int(charged_at_us))


def verdicts(
    asks: Sequence[_Asked], answer: bytes, kept: Sequence[bytes], charges: QuotaCharges | None
) -> Iterator[Answer]:
    """The answers to ``asks``, in order; puts the quotas that were charged, as they stand after the last, into ``charges``.

    ``kept`` is what the script found of those that had been decided before, and of those that it can't decide.
    """
    numbers = _decode(answer)
    position = found = 0
    for ask in asks:
        admitted, now_us = numbers[position], numbers[position + 1]
        position += 2
        if admitted == _REPEATED:
            yield decode_repeat(kept[found])
            found += 1
            continue
        if admitted == _UNREADABLE:
            yield Unreadable(kept[found].decode(), kept[found + 1].decode(errors="replace"))
            found += 2
            continue
        first = position
        position += 4 * len(ask.counters)
        if admitted == _UNSEEDED:
            yield Unseeded(now_us)
            continue
        outcomes: list[Outcome] = []
        for counter, cost in zip(ask.counters, ask.costs, strict=True):
            fits, x, y, z = numbers[first] == 1, numbers[first + 1], numbers[first + 2], numbers[first + 3]
            first += 4
            rule = counter.limit.algorithm
            if isinstance(rule, SlidingWindow):
                outcome = sliding_window.outcome(rule.requests, rule.window_us, now_us, fits, x, y, z)
            elif isinstance(rule, FixedWindow):
                outcome = fixed_window.outcome(rule.requests, rule.window_us, now_us, cost, fits, x)
            elif isinstance(rule, TokenBucket):
                outcome = token_bucket.outcome(
                    rule.requests, rule.window_us, rule.burst, x * rule.window_us + y, cost, fits
                )
            elif isinstance(rule, Quota):
                outcome = quota.outcome(rule.requests, now_us, cost, fits, x, z)
                if charges is not None and cost and (fits if admitted else counter.limit.charge_refused) and z > now_us:
                    charges[counter.key, y] = (x, now_us)
            else:
                outcome = concurrency.outcome(rule.requests, rule.timeout_us, now_us, cost, fits, x, y, z)
            outcomes.append(outcome)
        yield Verdict(admitted == 1, now_us, outcomes)
