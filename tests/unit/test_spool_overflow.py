"""While a spool has no room a kill loses nothing either: what was answered lies beside it, without details, each thing once."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import Any

import pytest

from apishield.core.events import HELD, CountEvent, DecisionEvent, Event
from apishield.services.drain import SpoolDrain
from apishield.stores.spool import SpoolReader, Spools, SpoolWriter, overflow
from apishield.stores.spool.files import open_file, spool_name
from tests.support.clock import ManualClock
from tests.support.spool import (
    SPOOL,
    MemoryLedger,
    as_after_a_kill,
    decision,
    read_all,
    requests_by_kind,
    result,
    settlement,
    units_by_kind,
)

MEGABYTE = 1024 * 1024
LITTLE_BYTES = 20_000


class Killed(BaseException):
    """The process is gone."""


class FullWriter(SpoolWriter):
    """A writer whose spool has just become full, with one decision that is held in it, and what was answered until then."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, SPOOL, ManualClock(), max_bytes=LITTLE_BYTES)
        self.made: list[Event] = []
        self.turn(decision(0, flags=HELD, units=100))
        while not self.stats.folded_events:
            self.turn(decision(len(self.made)))

    def turn(self, *events: Event) -> None:
        """Notes events, writes them, and answers."""
        for event in events:
            self.append(event)
        assert self.flush()
        self.made += events

    def make_room(self) -> None:
        """As when what lies there was taken."""
        self._max_bytes = MEGABYTE


@pytest.fixture
def full(tmp_path: Path) -> FullWriter:
    return FullWriter(tmp_path)


def same(found: list[Event], made: list[Event]) -> bool:
    return requests_by_kind(found) == requests_by_kind(made) and units_by_kind(found) == units_by_kind(made)


def beside(root: Path) -> Path:
    return root / spool_name(SPOOL) / overflow.NAME


def test_a_turn_is_written_before_it_is_answered_also_where_there_is_no_room(tmp_path: Path, full: FullWriter) -> None:
    for number in range(1000, 1400):
        full.turn(decision(number, units=number % 3))
    full.turn(settlement(0, {"requests": 7}), result(3, 404))
    found = as_after_a_kill(tmp_path)
    assert same(found, full.made)
    assert [event for event in found if event == result(3, 404)], "a result of a decision that has its details"
    assert full.stats.folded_events >= 400


def test_what_is_held_can_be_settled_and_released_also_where_there_is_no_room(tmp_path: Path, full: FullWriter) -> None:
    full.turn(decision(2000, flags=HELD, units={"requests": 1, "tokens": 50}), decision(2001, flags=HELD, units=9))
    full.turn(decision(2002, flags=HELD, units=5))
    full.turn(settlement(2000, {"tokens": 12}))
    full.turn(settlement(2001, {}, released=True))
    assert same(as_after_a_kill(tmp_path), full.made)
    full._overflow._bytes_when_new = -MEGABYTE
    full._overflow.shrink()
    found = as_after_a_kill(tmp_path)
    assert same(found, full.made)
    assert [event.sequence for event in found if isinstance(event, DecisionEvent) and event.sequence >= 2000] == [2002]


def test_beyond_a_bound_what_is_held_is_counted_at_what_it_was_charged(
    tmp_path: Path, full: FullWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "MAX_KEPT", 3)
    full.turn(*[decision(number, flags=HELD, units=9) for number in range(3000, 3010)])
    found = as_after_a_kill(tmp_path)
    assert same(found, full.made)
    assert sum(event.count for event in found if isinstance(event, CountEvent)) == 7 + 1


async def test_it_grows_with_the_kinds_and_not_with_the_time(tmp_path: Path, full: FullWriter) -> None:
    for number in range(10_000, 14_000):
        full.turn(decision(number, key_id=f"key_{number % 20}"))
        if number % 100 == 0:
            await full.tick()
    assert beside(tmp_path).stat().st_size < 100_000
    assert full.position <= LITTLE_BYTES
    assert same(as_after_a_kill(tmp_path), full.made)


async def test_once_there_is_room_it_is_read_as_the_rest_and_what_follows_has_its_details(
    tmp_path: Path, full: FullWriter
) -> None:
    reader = SpoolReader(tmp_path, SPOOL)
    found, position = read_all(reader)
    full.turn(settlement(0, {"requests": 7}), decision(500))
    assert full.holds_back
    assert reader.read(position)[0].frames == []
    full.make_room()
    await full.tick()
    assert not full.holds_back
    assert not beside(tmp_path).exists()
    full.turn(decision(501))
    more, _ = read_all(reader, position)
    assert more[-1] == decision(501)
    assert same(found + more, full.made)
    full.close()
    reader.close()


@pytest.mark.parametrize("calls", range(6))
async def test_wherever_a_process_is_killed_while_it_becomes_a_segment_it_is_there_once(
    tmp_path: Path, full: FullWriter, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    full.turn(settlement(0, {"requests": 7}), decision(700, units=3))
    full.make_room()
    with monkeypatch.context() as patch:
        die_after(patch, calls)
        with contextlib.suppress(Killed):
            await full.tick()
    assert same(as_after_a_kill(tmp_path), full.made)


@pytest.mark.parametrize("calls", range(6))
def test_wherever_its_heir_is_killed_the_next_one_takes_it_once(
    tmp_path: Path, full: FullWriter, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    full.turn(settlement(0, {"requests": 7}), decision(700, units=3))
    os.close(full._lock)  # as the kernel does for a process that is gone
    heir = SpoolReader(tmp_path, SPOOL)
    with monkeypatch.context() as patch:
        die_after(patch, calls)
        with contextlib.suppress(Killed):
            heir.adopt()
    heir.close()
    assert same(as_after_a_kill(tmp_path), full.made)


def die_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """The process is killed before its next call of the kernel that changes a file, after so many."""
    left = calls

    def before(call: Any) -> Any:
        def dies(*args: Any, **more: Any) -> Any:
            nonlocal left
            if left <= 0:
                raise Killed
            left -= 1
            return call(*args, **more)

        return dies

    for name in ("write", "rename", "unlink"):
        monkeypatch.setattr(os, name, before(getattr(os, name)))
    monkeypatch.setattr(overflow, "open_file", before(open_file))


async def test_a_spool_is_not_removed_before_what_lies_beside_it_was_taken(
    tmp_path: Path, full: FullWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: what is in segments is taken first, which gives room."""
    os.close(full._lock)
    ledger = MemoryLedger()
    drain = SpoolDrain(Spools(tmp_path, max_bytes=MEGABYTE), ledger, ManualClock(), owner="worker")
    with monkeypatch.context() as patch:
        patch.setattr(overflow, "_replace", refuse)
        await drain.catch_up()
        await drain.catch_up()
    assert 0 < len(ledger.events) < len(full.made)
    assert drain.spools.orphans == 0
    await drain.catch_up()
    assert same(ledger.events, full.made)
    assert drain.spools.stats.removed_spools == 1


def refuse(*_: object) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_piece_of_it_takes_no_other_with_it_and_is_put_aside(
    tmp_path: Path, full: FullWriter, seed: int
) -> None:
    for number in range(800, 810):
        full.turn(decision(number))
    os.close(full._lock)
    content = bytearray(beside(tmp_path).read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 0x10
    beside(tmp_path).write_bytes(content)
    reader = SpoolReader(tmp_path, SPOOL)
    assert reader.adopt()
    found, _ = read_all(reader)
    lost = sum(requests_by_kind(full.made).values()) - sum(requests_by_kind(found).values())
    assert lost == 1
    assert reader.stats.damaged_frames + reader.stats.torn_frames <= 1
    reader.close()
