"""No decision goes uncounted: not when the disk is full, not when the spool is, not in a flood, not at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from apishield.core.events import HELD, PEEK, CountEvent, DecisionEvent, Event
from apishield.stores.spool import SpoolWriter
from apishield.stores.spool.files import segment_name, spool_name
from tests.support.clock import ManualClock
from tests.support.spool import (
    SPOOL,
    as_after_a_kill,
    decision,
    files_end_at,
    requests_by_kind,
    result,
    settlement,
    spooled,
    units_by_kind,
)

MEGABYTE = 1024 * 1024


def write(writer: SpoolWriter, *events: Event) -> None:
    for event in events:
        writer.append(event)
    writer.flush()


@pytest.mark.parametrize("room", range(1, 70, 6))
async def test_a_write_that_the_disk_takes_in_part_leaves_nothing_of_itself_and_is_counted(
    tmp_path: Path, room: int
) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock())
    write(writer, decision(1))
    file, position = tmp_path / spool_name(SPOOL) / segment_name(0), writer.position
    with files_end_at(position + room):
        write(writer, decision(2, code="rate_limited"), decision(3, units={"tokens": 9}), result(3, 404))
        write(writer, decision(4, flags=PEEK))
        await writer.tick()
        assert file.stat().st_size == writer.position == position
        assert writer.stats.failed_writes >= 2
    write(writer, decision(5))
    await writer.tick()
    writer.close()
    found = spooled(tmp_path)
    assert [event.sequence for event in found if isinstance(event, DecisionEvent)] == [1, 5]
    assert requests_by_kind(found) == {("ten_a", "ok", "key_a"): 3, ("ten_a", "rate_limited", "key_a"): 1}
    assert units_by_kind(found)["ten_a", "ok", "key_a", "tokens"] == 9
    assert [event.results for event in found if isinstance(event, CountEvent) and event.results] == [{404: 1}]


async def test_a_full_spool_is_said_once_when_it_begins_and_once_when_it_ends(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock(), max_bytes=20_000)
    with structlog.testing.capture_logs() as lines:
        for number in range(1000):
            write(writer, decision(number))
            if number % 100 == 0:
                await writer.tick()
        assert writer.position <= 20_000 * 17 // 16
        assert [line["event"] for line in lines] == ["spool.no_room"]
        writer._max_bytes = MEGABYTE
        await writer.tick()
        await writer.tick()
    assert [line["event"] for line in lines] == ["spool.no_room", "spool.has_room_again"]
    write(writer, decision(1000))
    writer.close()
    found = spooled(tmp_path)
    assert requests_by_kind(found) == {("ten_a", "ok", "key_a"): 1001}
    assert found[-1] == decision(1000)  # details again
    assert writer.stats.folded_events == 1001 - sum(isinstance(event, DecisionEvent) for event in found)


async def test_the_bound_is_of_all_processes_of_the_node_together(tmp_path: Path) -> None:
    first, second = (SpoolWriter(tmp_path, spool, ManualClock(), max_bytes=20_000) for spool in (SPOOL, SPOOL + 1))
    for number in range(300):
        write(first, decision(number))
    await second.tick()
    write(second, decision(1, path="/a-longer-one"))
    assert second.stats.folded_events == 1


async def test_a_flood_of_refusals_is_counted_turn_by_turn_and_other_tenants_keep_their_details(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    writer = SpoolWriter(tmp_path, SPOOL, clock, detailed_refusals=100)
    for turn in range(20):
        flood = [decision(turn * 60 + n, code="rate_limited", at_us=clock(), path=f"/orders/{n}") for n in range(50)]
        write(writer, *flood, decision(turn * 60 + 50, at_us=clock()), decision(turn * 60 + 51, tenant_id="ten_b"))
    clock.advance(1)
    write(writer, *[decision(5000 + n, code="rate_limited", at_us=clock()) for n in range(70)])
    found = spooled(tmp_path)  # as after a kill: all that was answered is there
    detailed = [event for event in found if isinstance(event, DecisionEvent)]
    assert requests_by_kind(found) == {
        ("ten_a", "rate_limited", "key_a"): 1070, ("ten_a", "ok", "key_a"): 20, ("ten_b", "ok", "key_a"): 20
    }  # fmt: skip
    assert sum(event.code == "rate_limited" for event in detailed) == 100 + 70
    assert sum(event.code == "ok" for event in detailed) == 40
    assert writer.stats.flood_events == 900
    counted = [event for event in found if isinstance(event, CountEvent)]
    assert {(event.path, event.at_us % 60_000_000) for event in counted} == {("/orders/{id}", 0)}
    assert len(counted) == 18  # one a turn


def test_an_event_that_can_not_be_encoded_takes_no_other_with_it(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock())
    write(writer, decision(1), decision(2, path="/\ud800"), decision(3, units=2**70), decision(4))
    writer.close()
    found = spooled(tmp_path)
    assert [event.sequence for event in found if isinstance(event, DecisionEvent)] == [1, 4]
    assert sum(requests_by_kind(found).values()) == 4


def test_a_turn_of_any_size_is_read_back(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock())
    events = [decision(number, message="m" * 2000) for number in range(9000)]
    write(writer, *events)
    writer.close()
    assert spooled(tmp_path) == events


async def test_results_are_refused_while_the_disk_takes_nothing_and_what_was_noted_is_written_once_it_does(
    tmp_path: Path,
) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock())
    write(writer, decision(1, flags=HELD, units=100))
    assert writer.has_room_for(3)
    writer.append(settlement(1, {"requests": 7}))
    with files_end_at(0):
        assert not writer.flush(), "whoever settled is told that it was not taken"
        assert not writer.has_room_for(3)
        await writer.tick()
        assert not writer.flush(), "also where nothing new was noted"
        assert not writer.has_room_for(2)
    assert writer.stats.lost_results == 5
    await writer.tick()
    assert writer.flush()
    assert writer.has_room_for(1)
    assert units_by_kind(as_after_a_kill(tmp_path)) == {("ten_a", "ok", "key_a", "requests"): 7}
    writer.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("decide"), st.integers(1, 30), st.sampled_from(["ok", "rate_limited"])),
        st.tuples(st.just("flush"), st.just(0), st.just("")),
        st.tuples(st.just("tick"), st.just(0), st.just("")),
        st.tuples(st.just("room"), st.sampled_from([0, 3_000, 10_000, MEGABYTE]), st.just("")),
        st.tuples(st.just("disk"), st.sampled_from([0, 500, 2_000, MEGABYTE]), st.just("")),
        st.tuples(st.just("wait"), st.integers(0, 90), st.just("")),
    ),
    max_size=40,
)


@settings(max_examples=75, deadline=None)
@given(steps=steps)
async def test_whatever_room_there_was_in_between_every_decision_is_counted_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, str]]
) -> None:
    root, clock = tmp_path_factory.mktemp("spool"), ManualClock()
    writer = SpoolWriter(root, SPOOL, clock, max_bytes=MEGABYTE, detailed_refusals=20)
    is_written = True
    disk, made, answered = 64 * MEGABYTE, list[Event](), 0
    for what, number, code in steps:
        with files_end_at(disk):
            match what:
                case "decide":
                    for _ in range(number):
                        made.append(decision(len(made), code=code, units=len(made) % 3, at_us=clock()))
                        writer.append(made[-1])
                case "flush":
                    is_written = writer.flush()
                    answered = len(made)
                case "tick":
                    await writer.tick()
                    is_written = writer.flush()
                    answered = len(made)
                case "room":
                    writer._max_bytes = number
                case "disk":
                    disk = number
                case _:
                    clock.advance(number)
        if is_written:
            assert requests_by_kind(as_after_a_kill(root)) == requests_by_kind(made[:answered]), "a kill loses nothing"
    writer._max_bytes = 64 * MEGABYTE
    await writer.tick()
    await writer.tick()
    writer.close()
    found = spooled(root)
    assert requests_by_kind(found) == requests_by_kind(made)
    assert units_by_kind(found) == units_by_kind(made)
