"""A drain takes every event once, however often it, the ledger or the process that writes fails in between."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apishield.core.events import DecisionEvent, Event
from apishield.services.drain import HOUSEKEEPING_US, SpoolDrain
from apishield.stores.kafka.published import write_published
from apishield.stores.spool import Spools, SpoolWriter
from apishield.stores.spool.files import segment_name, spool_name
from tests.support.clock import SECOND_US, ManualClock
from tests.support.spool import SPOOL, MemoryLedger, decision, requests_by_kind

MEGABYTE = 1024 * 1024


def make_drain(root: Path, ledger: MemoryLedger, clock: ManualClock | None = None) -> SpoolDrain:
    return SpoolDrain(Spools(root, max_bytes=64 * MEGABYTE), ledger, clock or ManualClock(), owner="worker")


def write(writer: SpoolWriter, *sequences: int) -> list[Event]:
    events: list[Event] = [decision(number) for number in sequences]
    for event in events:
        writer.append(event)
    writer.flush()
    return events


async def test_a_living_process_is_drained_and_its_spool_stays(tmp_path: Path) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    drain = make_drain(tmp_path, ledger)
    await drain.step()
    first = write(writer, 1, 2)
    await drain.step()
    assert ledger.events == first
    second = write(writer, 3)
    await drain.step()
    await drain.step()
    assert ledger.events == first + second
    assert ledger.positions["spool:0a1b2c3d"][0] == writer.position
    assert (tmp_path / "0a1b2c3d").is_dir()


async def test_a_drain_takes_no_more_at_once_than_it_may_and_says_that_there_is_more(tmp_path: Path) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    drain = SpoolDrain(Spools(tmp_path, max_bytes=64 * MEGABYTE), ledger, ManualClock(), owner="node", events_at_once=4)
    events = [event for first in range(1, 13, 2) for event in write(writer, first, first + 1)]
    for taken in (4, 8):
        assert await drain.step()
        assert ledger.events == events[:taken]
    assert not await drain.step()
    assert ledger.events == events
    assert drain.stats.intakes == 3


async def test_the_spool_of_a_process_that_is_gone_is_drained_and_removed(tmp_path: Path) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    events = write(writer, 1, 2)
    writer.close()
    drain = make_drain(tmp_path, ledger)
    await drain.catch_up()
    assert ledger.events == events
    assert [path.name for path in tmp_path.iterdir()] == ["drain.lock"]
    assert drain.spools.stats.removed_spools == 1
    await drain.catch_up()
    assert len(drain.spools) == 0


async def test_only_one_worker_of_a_node_drains_and_the_next_takes_over(tmp_path: Path) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    first, second = make_drain(tmp_path, ledger), make_drain(tmp_path, ledger)
    await first.step()
    events = write(writer, 1)
    assert not await second.step()
    assert (first.draining, second.draining, ledger.events) == (True, False, [])
    first.close()
    await second.step()
    assert (second.draining, ledger.events) == (True, events)


async def test_a_round_that_waited_for_its_turn_does_not_take_the_spools_back_from_the_next_worker(
    tmp_path: Path,
) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    first, second = make_drain(tmp_path, ledger), make_drain(tmp_path, ledger)
    rounds = [asyncio.create_task(first.step()) for _ in range(2)]
    await asyncio.sleep(0)
    first.close()
    events = write(writer, 1)
    await asyncio.gather(*rounds)
    assert not first.draining
    await second.step()
    assert (second.draining, ledger.events) == (True, events)


async def test_a_worker_that_was_fenced_claims_again_and_takes_nothing_twice(tmp_path: Path) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    drain = make_drain(tmp_path, ledger)
    await drain.step()
    events = write(writer, 1)
    await drain.step()
    await ledger.claim("spool:0a1b2c3d", "another")
    events += write(writer, 2)
    assert await drain.step()
    await drain.step()
    assert ledger.events == events
    assert drain.stats.fenced == 1


async def test_one_spool_that_can_not_be_read_keeps_no_other_waiting(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    broken, fine = SpoolWriter(tmp_path, 1, ManualClock()), SpoolWriter(tmp_path, 2, ManualClock())
    write(broken, 1)
    events = write(fine, 2)
    broken.close()
    path = tmp_path / spool_name(1) / segment_name(0)
    path.unlink()
    path.symlink_to("/dev/null")  # a link is not followed
    drain = make_drain(tmp_path, ledger)
    with pytest.raises(OSError, match="symbolic"):
        await drain.step()
    assert ledger.events == events


async def test_a_frame_without_events_is_put_aside_and_the_next_is_taken(tmp_path: Path) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    writer.append(["of another version"])  # type: ignore[arg-type]
    writer.flush()
    events = write(writer, 1)
    drain = make_drain(tmp_path, ledger)
    await drain.step()
    assert ledger.events == events
    assert drain.stats.unreadable_frames == 1
    assert b"of another version" in next((tmp_path / "quarantine").iterdir()).read_bytes()
    await drain.step()
    assert drain.stats.unreadable_frames == 1


async def test_one_frame_that_the_ledger_fails_at_is_put_aside_and_no_other(tmp_path: Path) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    ledger.fails_at = 30
    events = [event for number in range(60) for event in write(writer, number)]
    drain = make_drain(tmp_path, ledger)
    for _ in range(40):
        with contextlib.suppress(ValueError):
            await drain.catch_up()
    assert ledger.events == [event for event in events if event != events[30]]
    assert drain.stats.unreadable_frames == 1
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


async def test_what_is_too_much_for_the_database_at_once_is_taken_in_parts(tmp_path: Path) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    ledger.most_at_once = 7
    events = [event for number in range(100) for event in write(writer, number)]
    drain = make_drain(tmp_path, ledger)
    for _ in range(60):
        with contextlib.suppress(ConnectionError):
            await drain.catch_up()
    assert ledger.events == events
    assert drain.stats.unreadable_frames == 0


async def test_the_house_is_kept_and_claims_are_renewed_each_hour(tmp_path: Path) -> None:
    ledger, clock = MemoryLedger(), ManualClock()
    SpoolWriter(tmp_path, SPOOL, clock)
    drain = make_drain(tmp_path, ledger, clock)
    for _ in range(3):
        await drain.step()
    epoch = ledger.positions["spool:0a1b2c3d"][1]
    assert ledger.tidied == 1
    clock.advance(HOUSEKEEPING_US / SECOND_US)
    await drain.step()
    await drain.step()
    assert ledger.tidied == 2
    assert ledger.positions["spool:0a1b2c3d"][1] == epoch + 1


async def test_what_the_node_has_published_to_kafka_before_is_left_to_those_who_read_it_there(tmp_path: Path) -> None:
    ledger, writer = MemoryLedger(), SpoolWriter(tmp_path, SPOOL, ManualClock())
    write(writer, 1, 2)
    write_published(tmp_path, SPOOL, writer.position)
    rest = write(writer, 3)
    drain = make_drain(tmp_path, ledger)
    await drain.step()
    await drain.step()
    assert ledger.events == rest
    assert ledger.positions["spool:0a1b2c3d"][0] == writer.position


schedules = st.lists(
    st.sampled_from(
        ["write", "write", "step", "step", "fail before", "fail after", "heal", "kill worker", "kill process", "tear"]
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(schedule=schedules)
async def test_whatever_is_killed_every_event_is_taken_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, schedule: list[str]
) -> None:
    root, ledger = tmp_path_factory.mktemp("spool"), MemoryLedger()
    drain, spool, made = make_drain(root, ledger), SPOOL, list[Event]()
    writer = SpoolWriter(root, spool, ManualClock(), max_bytes=1)
    for what in schedule:
        writer._max_bytes = 64 * MEGABYTE
        match what:
            case "write":
                made += write(writer, *range(len(made), len(made) + 300))
            case "step":
                with contextlib.suppress(ConnectionError):
                    await drain.step()
            case "fail before":
                ledger.fail_before = True
            case "fail after":
                ledger.fail_after = True
            case "heal":
                ledger.fail_before = ledger.fail_after = False
            case "kill worker":
                drain.close()  # what it knows is gone, and the kernel lets go of its locks
                drain = make_drain(root, ledger)
            case "kill process" | "tear":
                if what == "tear":
                    writer.append(decision(10**6))
                    writer.flush()
                    file = root / spool_name(spool) / segment_name(writer._segment_start)
                    file.write_bytes(file.read_bytes()[:-1])
                writer.close()
                spool += 1
                writer = SpoolWriter(root, spool, ManualClock(), max_bytes=1)
    writer.close()
    ledger.fail_before = ledger.fail_after = False
    await drain.catch_up()
    assert requests_by_kind(ledger.events) == requests_by_kind(made)
    assert {event.sequence for event in ledger.events if isinstance(event, DecisionEvent)} == set(range(len(made)))
    assert [path.name for path in root.iterdir()] == ["drain.lock"]
