"""The counters of a replay: as many as may live, the idle ones let go of bit by bit, and nothing said otherwise for it."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from apishield.core import replay_counters
from apishield.core.events import DecisionEvent, ResultEvent, SettlementEvent
from apishield.core.model import SECOND_US, Counter, FixedWindow, Limit, SlidingWindow, TokenBucket
from apishield.core.replay_counters import Asked, ReplayCounters


class Kept(msgspec.Struct):
    spool: int
    event: DecisionEvent
    result: ResultEvent | None = None
    settlement: SettlementEvent | None = None


LIMIT = Limit(id="lim_a", name="a", algorithm=FixedWindow(2, SECOND_US))
RECORDED = Kept(1, DecisionEvent(1, 0, "ten_a", "ok", 0))


def asked(name: str, limit: Limit = LIMIT) -> Asked:
    return Asked(Counter(name, limit), 1, RECORDED, False, None)


def settlement(sequence: int, decided_us: int) -> SettlementEvent:
    at_us = decided_us + (300_000 if sequence % 2 else 17_900_000)
    return SettlementEvent(1, sequence, decided_us // 1000, "ten_a", at_us, {})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> ReplayCounters:
    """Counters of which 100 may live, and that look for idle ones among 20."""
    monkeypatch.setattr(replay_counters, "MOST_COUNTERS", 100)
    monkeypatch.setattr(replay_counters, "_MOST_UNSWEPT", 75)
    monkeypatch.setattr(replay_counters, "_FEWEST_SWEPT", 20)
    return ReplayCounters()


def test_who_finds_no_room_is_not_judged_until_others_are_idle(few: ReplayCounters) -> None:
    assert [few.decide(asked(f"k{n}"), 5) for n in range(103)] == [True] * 100 + [None] * 3
    assert few.decide(asked("k7"), 6) is True
    assert few.decide(asked("k7"), 7) is False
    assert few.decide(asked("late"), 2 * SECOND_US) is True


def test_even_where_it_is_full_no_new_counter_looks_at_all_others(few: ReplayCounters) -> None:
    for n in range(103):
        few.decide(asked(f"k{n}"), 5)
    held = [len(few)]
    for n in range(30):
        assert few.decide(asked(f"late{n}"), 2 * SECOND_US) is True
        held.append(len(few))
    assert max(before - after for before, after in pairwise(held)) < 20
    assert held[-1] < 40


def test_idle_counters_are_let_go_of_bit_by_bit(few: ReplayCounters) -> None:
    most = 0
    for n in range(2_000):
        few.decide(asked(f"k{n}"), n * SECOND_US)
        most = max(most, len(few))
    assert most <= 30


@pytest.mark.parametrize(
    "algorithm", [FixedWindow(2, SECOND_US), SlidingWindow(2, SECOND_US), TokenBucket(2, SECOND_US, 2)]
)
def test_to_let_go_of_idle_counters_changes_no_answer(few: ReplayCounters, algorithm: FixedWindow) -> None:
    limit = msgspec.structs.replace(LIMIT, algorithm=algorithm)
    whole: dict[str, ReplayCounters] = {}  # with counters of its own, each name is never let go of
    refused = 0
    for n in range(3_000):
        name, now_us = f"k{n * n % 37 if n % 3 else n % 900}", n * 20_000
        again = asked(name, limit)
        if n % 5 == 0:  # half of them are settled long after they no longer count: the more that they cost counts then
            again.recorded = Kept(1, DecisionEvent(n, now_us, "ten_a", "ok", 0), settlement=settlement(n, now_us))
            again.settled = n % 7
        answer = few.decide(again, now_us)
        assert answer == whole.setdefault(name, ReplayCounters()).decide(again, now_us)
        refused += not answer
    assert refused
    assert len(few) < len(whole)
