"""What a process has written is read whole or not at all, whatever a kill or a bad disk does to the files."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apishield.core.events import Event
from apishield.stores.spool import SpoolReader, Spools, SpoolWriter
from apishield.stores.spool.files import segment_name, spool_name
from apishield.stores.spool.frames import events_in, frame_at, write_frame
from apishield.stores.spool.reader import ReaderStats
from tests.support.clock import ManualClock
from tests.support.spool import SPOOL, decision, read_all, result, spooled

FRAMES: list[list[Event]] = [
    [decision(1), result(1)],
    [decision(2, path="/a" * 40)],
    [decision(n) for n in range(3, 9)],
    [result(5)],
]
EVENTS = [event for frame in FRAMES for event in frame]


def written(root: Path, frames: list[list[Event]] | None = None) -> bytes:
    """Makes the spool of a process that ended; returns what its only segment holds."""
    writer = SpoolWriter(root, SPOOL, ManualClock())
    for frame in FRAMES if frames is None else frames:
        for event in frame:
            writer.append(event)
        writer.flush()
    writer.close()
    return segment(root).read_bytes()


def segment(root: Path) -> Path:
    return root / spool_name(SPOOL) / segment_name(0)


def boundaries(data: bytes) -> list[int]:
    """Where frames begin, and where the last one ends."""
    found, buffer = [0], bytearray()
    for frame in FRAMES:
        found.append(write_frame(frame, buffer, found[-1]))
    assert found[-1] == len(data)
    return found


def test_what_was_flushed_is_read_in_order_by_another(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock())
    append = writer.append  # the hot path holds on to it
    reader = SpoolReader(tmp_path, SPOOL)
    position = 0
    for frame in FRAMES:
        for event in frame:
            append(event)
        assert reader.read(position)[0].frames == []  # not before the flush
        assert writer.pending
        writer.flush()
        assert not writer.pending
        part, position = reader.read(position)
        assert [event for found in part.frames for event in found.events()] == frame
        assert part.frames[-1].end == position == writer.position


def test_cut_at_every_byte_all_whole_frames_are_read_and_nothing_else(tmp_path: Path) -> None:
    data = written(tmp_path)
    ends = boundaries(data)
    for length in range(len(data) + 1):
        segment(tmp_path).write_bytes(data[:length])
        whole = sum(end <= length for end in ends[1:])
        stats = ReaderStats()
        reader = SpoolReader(tmp_path, SPOOL, stats)
        for orphaned in (False, True):
            assert reader.orphaned is orphaned
            assert read_all(reader)[0] == [event for frame in FRAMES[:whole] for event in frame]
            reader.adopt()
        assert stats.torn_frames == (length not in ends)  # said once, and only once nobody can complete it
        assert stats.damaged_frames == 0
        reader.close()


def test_a_flip_of_any_bit_loses_no_more_than_its_own_frame(tmp_path: Path) -> None:
    data = written(tmp_path)
    ends = boundaries(data)
    for at in range(len(data)):
        hurt = next(number for number, end in enumerate(ends[1:]) if at < end)
        damaged = bytearray(data)
        damaged[at] ^= 1 << (at % 8)
        segment(tmp_path).write_bytes(damaged)
        stats = ReaderStats()
        reader = SpoolReader(tmp_path, SPOOL, stats)
        reader.adopt()
        events, position = read_all(reader)
        assert events == [event for number, frame in enumerate(FRAMES) if number != hurt for event in frame]
        assert position == (ends[-2] if hurt == len(FRAMES) - 1 else ends[-1])
        assert stats.damaged_frames + stats.torn_frames == 1
        reader.close()


@settings(max_examples=60, deadline=None)
@given(
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=40), st.integers(0, 60)), max_size=3),
)
def test_bytes_put_in_or_taken_out_never_make_an_event_that_was_not_written(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes, int]]
) -> None:
    root = tmp_path_factory.mktemp("spool")
    data = written(root)
    for at, put_in, taken_out in damage:
        place = at % (len(data) + 1)
        data = data[:place] + put_in + data[place + taken_out :]
    segment(root).write_bytes(data)
    found = spooled(root)
    assert all(event in EVENTS for event in found)
    assert found == sorted(found, key=EVENTS.index)


def test_a_damaged_frame_is_put_aside_once_however_often_it_is_met(tmp_path: Path) -> None:
    data = bytearray(written(tmp_path))
    damaged = data[: boundaries(bytes(data))[1]]
    data[30] ^= 0xFF
    segment(tmp_path).write_bytes(data)
    for _ in range(2):
        reader = SpoolReader(tmp_path, SPOOL)
        for _ in range(2):
            assert read_all(reader)[0] == EVENTS[2:]
        assert reader.stats.damaged_frames == 1
        reader.close()
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert len(kept.read_bytes()) == len(damaged)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_the_last_frame_of_a_living_process_is_waited_for(tmp_path: Path) -> None:
    data = written(tmp_path)
    last = boundaries(data)[-2]
    segment(tmp_path).write_bytes(data[: last + 9])
    reader = SpoolReader(tmp_path, SPOOL)
    _, position = read_all(reader)
    assert position == last
    segment(tmp_path).write_bytes(data)
    assert read_all(reader, position)[0] == FRAMES[-1]
    assert reader.stats.torn_frames == reader.stats.damaged_frames == 0


def test_a_read_gives_no_more_than_it_may_and_always_something(tmp_path: Path) -> None:
    written(tmp_path)
    reader = SpoolReader(tmp_path, SPOOL)
    position, sizes = 0, []
    while True:
        part, position = reader.read(position, max_events=4)
        if not part.frames:
            break
        sizes.append([len(frame.events()) for frame in part.frames])
        assert reader.behind is (position < len(segment(tmp_path).read_bytes()))
    assert sizes == [[2, 1], [6], [1]]
    assert len(reader.read(0, max_bytes=1)[0].frames) == 1


def test_files_are_for_their_owner_only_and_no_link_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    written(root)
    directory = root / spool_name(SPOOL)
    assert stat.S_IMODE(root.stat().st_mode) == stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    elsewhere = tmp_path / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)
    with pytest.raises(OSError, match="Not a directory"):
        SpoolReader(root, SPOOL)
    assert Spools(root, max_bytes=1).readers() == []


def test_the_lock_says_whether_the_process_lives(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock())
    first, second = SpoolReader(tmp_path, SPOOL), SpoolReader(tmp_path, SPOOL)
    assert not first.adopt()
    with pytest.raises(FileExistsError):
        SpoolWriter(tmp_path, SPOOL, ManualClock())
    writer.close()
    assert first.adopt()
    assert not second.adopt()  # one alone may remove it
    first.remove()
    assert list(tmp_path.iterdir()) == []


def test_only_segments_that_were_taken_to_their_end_are_deleted(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock(), max_bytes=1)  # the smallest segments
    writer._max_bytes = 10**9
    events: list[Event] = []
    ends = [0]
    while len(list((tmp_path / spool_name(SPOOL)).iterdir())) < 5:
        events += [decision(len(events) + number, path="/x" * 100) for number in range(40)]
        for event in events[-40:]:
            writer.append(event)
        writer.flush()
        ends.append(writer.position)
    reader = SpoolReader(tmp_path, SPOOL)
    for taken, position in enumerate(ends):
        reader.forget(position)
        assert read_all(reader, position)[0] == events[40 * taken :]
    assert len(list((tmp_path / spool_name(SPOOL)).glob("*.log"))) == 1


def test_what_a_killed_process_half_made_or_half_removed_is_cleared_up(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / spool_name(SPOOL)).rename(tmp_path / ".gone-0a1b2c3d")
    (tmp_path / ".new-1").mkdir()
    (tmp_path / ".new-1" / "lock").touch()
    spools = Spools(tmp_path, max_bytes=10**9)
    assert spools.hold()
    assert [path.name for path in tmp_path.iterdir()] == ["drain.lock"]
    assert not Spools(tmp_path, max_bytes=10**9).hold()
    spools.close()


def test_clearing_up_follows_no_link_and_stumbles_over_nothing(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (root / ".gone-1" / "below" / "further").mkdir(parents=True)
    (root / ".gone-1" / "below" / "link").symlink_to(elsewhere)
    (root / ".gone-2").symlink_to(elsewhere)
    (root / ".gone-3").touch()
    (root / ".gone-4").symlink_to(tmp_path / "nowhere")
    (root / ".new-1").symlink_to(elsewhere)
    spools = Spools(root, max_bytes=10**9)
    assert spools.hold()
    assert (elsewhere / "precious").exists()
    assert sorted(path.name for path in root.iterdir()) == [".new-1", "drain.lock"]
    spools.close()


def test_nothing_that_lies_about_keeps_a_spool_from_being_removed(tmp_path: Path) -> None:
    written(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f".gone-{spool_name(SPOOL)}").symlink_to(elsewhere)
    (tmp_path / spool_name(SPOOL) / "below").mkdir()
    reader = SpoolReader(tmp_path, SPOOL)
    position = read_all(reader)[1]
    assert reader.read(position)[0].frames == []
    assert reader.adopt()
    reader.remove()
    assert not (tmp_path / spool_name(SPOOL)).exists()
    assert elsewhere.is_dir()


def test_what_cannot_be_removed_is_said_and_keeps_nobody_from_draining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError("not yours")

    (tmp_path / ".gone-1").mkdir()
    monkeypatch.setattr("shutil.rmtree", refuse)
    spools = Spools(tmp_path, max_bytes=10**9)
    assert spools.hold()
    spools.close()


def test_the_number_of_events_is_read_from_the_head_of_a_payload() -> None:
    buffer = bytearray()
    for number in (0, 1, 15, 16, 4096, 70_000):
        end = write_frame([result(1)] * number, buffer, 7)
        frame = frame_at(bytes(buffer), 0)
        assert frame is not None
        assert (events_in(frame.payload), frame.end, end) == (number, end, 7 + len(buffer))


async def test_a_tick_syncs_and_looks_at_the_room_without_keeping_files_open(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SPOOL, ManualClock(), max_bytes=1)
    writer._max_bytes = 10**9
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(3000):
        writer.append(decision(number))
        if number % 100 == 0:
            writer.flush()
    await asyncio.gather(writer.tick(), writer.tick())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    writer.close()
