"""Counters that are made once find their states sooner, and the same ones: whatever was forgotten, reset or changed between."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apishield.core.model import Counter, FixedWindow, Limit, ReadyCounters, SlidingWindow, TokenBucket, Verdict
from apishield.stores.memory import MemoryStore
from tests.support.clock import SECOND_US, ManualClock

units = st.integers(1, 6)
windows_us = st.sampled_from([SECOND_US, 10 * SECOND_US])
rules: st.SearchStrategy[Any] = st.one_of(
    st.builds(FixedWindow, units, windows_us),
    st.builds(SlidingWindow, units, windows_us),
    st.builds(TokenBucket, units, windows_us, units),
)
steps = st.tuples(
    st.sampled_from(["ask", "ask", "ask", "ask by itself", "reset", "change", "swap stores"]),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from([0, 0, 0.5, 1, 3, 60]),
)


@given(st.lists(st.lists(rules, min_size=1, max_size=3), min_size=3, max_size=3), st.data())
def test_counters_made_once_decide_as_counters_made_for_each_check(
    ruled: list[list[FixedWindow | SlidingWindow | TokenBucket]], data: st.DataObject
) -> None:
    clock = ManualClock()
    ready_store, other_store, plain_store = MemoryStore(clock), MemoryStore(clock), MemoryStore(clock)
    subjects = [_counters(subject, its) for subject, its in enumerate(ruled)]
    ready = [ReadyCounters(counters) for counters in subjects]
    for step, subject, cost, pause_seconds in data.draw(st.lists(steps, min_size=5, max_size=40)):
        clock.advance(pause_seconds)
        counters = subjects[subject]
        match step:
            case "ask":
                assert _ask(ready_store, ready[subject], cost) == _ask(plain_store, counters, cost)
            case "ask by itself":  # as a policy does that counts by the same
                assert _ask(ready_store, counters[:1], cost) == _ask(plain_store, counters[:1], cost)
            case "reset":
                _run(ready_store.reset(ready[subject]))
                _run(plain_store.reset(counters))
            case "change":
                changed = [data.draw(_like(counter.limit.algorithm)) for counter in counters]
                subjects[subject] = _counters(subject, changed)
                ready[subject] = ReadyCounters(subjects[subject])
            case "swap stores":  # what was found in one says nothing of the other
                _ask(other_store, ready[subject], 1)


def _counters(subject: int, its: list[Any]) -> list[Counter]:
    return [
        Counter(
            f"{{ten_1}}|{subject}|{place}|{type(rule).__name__}",
            Limit(id=f"lim_{place}", name=f"{place}", algorithm=rule),
        )
        for place, rule in enumerate(its)
    ]


def _like(rule: Any) -> st.SearchStrategy[Any]:
    return rules.filter(lambda other: type(other) is type(rule))


def _ask(store: MemoryStore, counters: Any, cost: int) -> Verdict:
    verdict = store.decide(counters, [cost] * len(counters))
    assert isinstance(verdict, Verdict)
    return verdict


def _run(coroutine: Any) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a store in memory has nothing to wait for")
