"""A spool that runs full gives up its oldest details, and no count: whoever has taken how much of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.events import HELD, PEEK, CountEvent, DecisionEvent, Event, SettlementEvent
from apishield.stores.spool import SpoolReader, Spools, SpoolWriter
from apishield.stores.spool.counts import Counts
from apishield.stores.spool.files import bytes_in, open_directory, segments_in, spool_name
from apishield.stores.spool.folding import fold, fold_segment, foldable
from apishield.stores.spool.frames import READ_BYTES
from tests.support.clock import START_US, ManualClock
from tests.support.spool import SPOOL, decision, read_all, requests_by_kind, result, settlement, spooled, units_by_kind

MAX_BYTES = 16 * 1024 * 1024
KINDS = ("ok", "rate_limited", "quota_exceeded")

decisions = st.builds(
    decision,
    st.integers(1, 30),
    code=st.sampled_from(KINDS),
    flags=st.sampled_from([0, HELD, PEEK]),
    key_id=st.sampled_from(["key_a", "key_b", None]),
    at_us=st.integers(START_US, START_US + 200_000_000),
    units=st.one_of(st.integers(0, 9), st.dictionaries(st.sampled_from(["requests", "tokens"]), st.integers(0, 9))),
    path=st.sampled_from(["/a", "/orders/12345", None]),
)


def once(events: Sequence[Event]) -> list[Event]:
    """Each decision, and each settlement of one that was admitted, once, as the engine makes them."""
    found: list[Event] = []
    seen: set[tuple[type, int]] = set()
    admitted: set[int] = set()
    for event in sorted(events, key=lambda event: isinstance(event, SettlementEvent)):
        place = (type(event), event.sequence) if isinstance(event, DecisionEvent | SettlementEvent) else None
        if place in seen or (isinstance(event, SettlementEvent) and event.sequence not in admitted):
            continue
        if place is not None:
            seen.add(place)
        if isinstance(event, DecisionEvent) and event.code == "ok":
            admitted.add(event.sequence)
        found.append(event)
    return found


@given(
    events=st.lists(
        st.one_of(
            decisions,
            st.builds(result, st.integers(1, 30), st.sampled_from([200, 404, 500])),
            st.builds(settlement, st.integers(1, 30), st.just({"tokens": 5}), released=st.booleans()),
        ),
        max_size=60,
    ).map(once)
)
def test_folded_events_count_and_cost_the_same(events: list[Event]) -> None:
    folded = fold(SPOOL, events)
    assert requests_by_kind(folded) == requests_by_kind(events)
    assert units_by_kind(folded) == units_by_kind(events)
    again = fold(SPOOL, folded)
    assert requests_by_kind(again) == requests_by_kind(events)
    assert units_by_kind(again) == units_by_kind(events)


def test_what_a_later_event_needs_keeps_its_details() -> None:
    held, settled = decision(1, flags=HELD, user_agent="curl"), decision(2, flags=HELD)
    events: list[Event] = [
        held,
        settled,
        result(1),
        settlement(2, {"requests": 4}),
        result(99),
        decision(3),
        result(3, 404),
    ]
    counted, *kept = fold(SPOOL, events)
    assert isinstance(counted, CountEvent)
    assert (counted.count, counted.units, counted.results) == (2, 5, {404: 1})
    assert kept == [decision(1, flags=HELD), result(99), result(1)]  # less the user agent


def test_results_of_another_process_are_not_taken_for_those_of_this_one() -> None:
    events: list[Event] = [decision(1), result(1, spool=SPOOL + 1)]
    assert fold(SPOOL, events)[1:] == [result(1, spool=SPOOL + 1)]


def test_too_many_kinds_are_told_apart_by_key_and_then_by_code_and_all_are_counted() -> None:
    counts = Counts(max_kinds=10, max_keys=5)
    made: list[Event] = [decision(n, path=f"/p{chr(97 + n % 26)}x", key_id=f"key_{n % 23}") for n in range(2000)]
    for event in made:
        assert isinstance(event, DecisionEvent)
        counts.add(event)
    assert len(counts) == 10 + 5 + 1
    assert sum(requests_by_kind(counts.take()).values()) == 2000
    assert len(counts) == 0


class FullSpool:
    """A spool of a process that lives, with more in it than there is room for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.writer = SpoolWriter(root, SPOOL, ManualClock(), max_bytes=MAX_BYTES)
        self.made: list[Event] = []
        while self.writer.position < MAX_BYTES * 0.95:
            turn: list[Event] = [
                decision(len(self.made) + n, key_id=f"key_{n % 7}", message="m" * 1500) for n in range(12)
            ]
            for event in turn:
                self.writer.append(event)
            self.writer.flush()
            self.made += turn


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullSpool]:
    spool = FullSpool(tmp_path)
    yield spool
    spool.writer.close()


@pytest.mark.parametrize("taken", [0, 200_000, 500_000, READ_BYTES])
def test_wherever_a_reader_stands_it_takes_each_decision_once_after_the_folding(full: FullSpool, taken: int) -> None:
    # As a worker that took up to here, was killed before it could say so, and comes back.
    position, before = 0, list[Event]()
    reader = SpoolReader(full.root, SPOOL)
    if taken:
        part, position = reader.read(0, max_bytes=taken)
        before = [event for frame in part.frames for event in frame.events()]
    spools = Spools(full.root, max_bytes=MAX_BYTES)
    assert spools.hold()
    spools.readers()
    used = bytes_in(full.root)
    assert spools.make_room() == used - bytes_in(full.root) > 0
    assert bytes_in(full.root) <= 0.8 * MAX_BYTES
    after, end = read_all(SpoolReader(full.root, SPOOL), position)
    assert end == full.writer.position
    assert requests_by_kind(before + after) == requests_by_kind(full.made)
    assert after[-1] == full.made[-1]  # the oldest goes first
    assert spools.stats.folded_events > 0
    assert spools.make_room() == 0


def test_nothing_that_one_read_may_have_reached_is_folded(full: FullSpool) -> None:
    directory = open_directory(full.root / spool_name(SPOOL))
    starts = [start for start, _ in segments_in(directory)]
    reader = SpoolReader(full.root, SPOOL)
    _, reached = reader.read(starts[1] - 1)
    assert min(foldable(directory)) >= reached
    assert starts[-1] not in foldable(directory)  # the process writes to it


def test_a_damaged_segment_is_left_for_the_reader_to_put_aside(full: FullSpool) -> None:
    directory = open_directory(full.root / spool_name(SPOOL))
    start = foldable(directory)[0]
    path = full.root / spool_name(SPOOL) / f"{start:016x}.log"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    starts = [start for start, _ in segments_in(directory)]
    following = starts[starts.index(start) + 1]
    assert fold_segment(directory, SPOOL, start, following) == (0, 0)
    assert path.read_bytes() == content


def test_a_spool_with_room_keeps_all_its_details(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock())
    writer.append(decision(1))
    writer.flush()
    spools = Spools(tmp_path, max_bytes=MAX_BYTES)
    spools.readers()
    assert spools.make_room() == 0
    assert spooled(tmp_path) == [decision(1)]
