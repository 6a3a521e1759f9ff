"""Writes the events of one process to its spool: a list append for each event, one write a turn of the loop.

What happens when there is no room for details, because the spool's bound is reached or a flood of refusals comes: decisions
become counts, which are written with their turn, too. Where the disk itself is full they are in memory until it takes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from apishield.core.events import HELD, DecisionEvent, Event
from apishield.core.model import SECOND_US
from apishield.core.ports import Clock
from apishield.stores.spool.counts import Counts
from apishield.stores.spool.files import bytes_in, make_spool, open_file, segment_name
from apishield.stores.spool.frames import FrameTooLargeError, write_frame
from apishield.stores.spool.overflow import MAX_KEPT, Overflow

log = structlog.get_logger("apishield.spool")

DEFAULT_BYTES = 1024**3
DETAILED_REFUSALS = 1000  # a second and tenant; more are counted
MAX_FRAME_EVENTS = 4096
_ROOM = 0.9  # of all that there is: up to here what was put beside the spool may return
_LARGEST_COST = 2**53
_SMALLEST_SEGMENT, _LARGEST_SEGMENT = 64 * 1024, 8 * 1024 * 1024


class WriterStats(msgspec.Struct):
    """Plain numbers of one writer, which only grow.

    ``folded_events`` are decisions that were counted for want of room, ``flood_events`` refusals that were counted because
    there were too many of them, ``lost_results`` results and settlements that were refused for want of room.
    """

    events: int = 0
    frames: int = 0
    bytes: int = 0
    folded_events: int = 0
    flood_events: int = 0
    lost_results: int = 0
    failed_writes: int = 0


class SpoolWriter:
    """The spool of this process, below ``root``. It holds the lock until ``close``, or until the process is gone.

    ``append`` notes an event; ``flush`` writes what was noted, and comes at the end of a turn, before answers go out;
    ``tick`` is called once a second. None of them raises or waits for the disk. ``max_bytes`` bounds the details in all spools
    of ``root``; what is kept without details comes on top, and takes as much as there are kinds to count.
    Constructing one raises ``FileExistsError`` where the number is taken, ``OSError`` where no file can be made.
    """

    def __init__(
        self,
        root: Path,
        spool: int,
        clock: Clock,
        *,
        max_bytes: int = DEFAULT_BYTES,
        detailed_refusals: int = DETAILED_REFUSALS,
    ) -> None:
        self.spool = spool
        self.stats = WriterStats()
        self._root, self._clock = root, clock
        self._max_bytes, self._detailed_refusals = max_bytes, detailed_refusals
        self._segment_bytes = min(max(max_bytes // 128, _SMALLEST_SEGMENT), _LARGEST_SEGMENT)
        self._events: list[Event] = []
        self.append = self._events.append  # type: ignore[method-assign, assignment]  # the hot path: no call of ours
        self._buffer = bytearray()
        self._position = self._segment_start = 0
        self._segment_has_ended = False
        self._second = -1
        self._refusals: dict[str, int] = {}
        self._without_room = False
        self._used = bytes_in(root)
        self._directory, self._lock = make_spool(root, spool)
        self._overflow = Overflow(self._directory, spool)
        self._unsynced: list[int] = []
        self._file = self._open_segment()

    def append(self, event: Event) -> None:
        """Notes an event for the next flush. It may be held on to: it stays the same callable."""

    @property
    def position(self) -> int:
        """Where the last frame ends that was written; what is noted lies behind it."""
        return self._position

    @property
    def pending(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._events)

    @property
    def holds_back(self) -> bool:
        """Whether there is something that no reader finds yet: what there was no room for."""
        return not self._overflow.is_empty

    @property
    def is_written(self) -> bool:
        """Whether all that was flushed is in a file: ``False`` where the disk takes no more."""
        return self._overflow.is_written

    @property
    def takes_results(self) -> bool:
        """Whether results and settlements can be written down."""
        return self._overflow.is_written and self._overflow.kept < MAX_KEPT

    def has_room_for(self, results: int) -> bool:
        """Whether so many results and settlements can be written down. Else they are counted as lost: refuse them."""
        has_room = self.takes_results
        if not has_room:
            self.stats.lost_results += results
        return has_room

    def flush(self) -> bool:
        """Writes what was noted since the last flush, in one write as a rule. What there is no room for is counted.

        Returns whether all that was ever noted is in a file: ``False`` where the disk is full.
        """
        if not self._events:
            return self._overflow.is_written
        try:
            self._flush(self._events)
        finally:
            self._events.clear()  # the list stays the same one, because whoever appends may hold on to ``append``
        return self._overflow.is_written

    def _flush(self, events: list[Event]) -> None:
        self.stats.events += len(events)
        second = self._clock() // SECOND_US
        if second != self._second:
            self._second = second
            self._refusals.clear()
        events = self._without_flood(events)
        for some in _parts(events):
            if not self._write(some):
                self._give_up_details(some)

    async def tick(self) -> None:
        """Once a second: takes back what there was no room for, looks how much there is, has the disk take what was written."""
        self._take_back(self._max_bytes * _ROOM)
        unsynced, self._unsynced = self._unsynced, []
        with contextlib.suppress(OSError):
            unsynced.append(os.dup(self._file))
        with contextlib.suppress(OSError):
            beside = self._overflow.duplicate()
            unsynced += [] if beside is None else [beside]
        used = await asyncio.to_thread(_sync, self._directory, unsynced, self._root)
        self._used = self._used if used is None else used

    def close(self) -> None:
        """Writes what is left and lets go of the files; whoever takes the lock drains them."""
        self.flush()
        self._take_back()
        if not self._overflow.is_written:
            log.error("spool.not_written", spool=self._root, counts=len(self._overflow), reason="the disk is full")
        _sync(self._directory, [*self._unsynced, self._file], self._root)
        self._overflow.close()
        os.close(self._directory)
        os.close(self._lock)

    # --- when there is no room for details ------------------------------------------------------------------------------

    def _without_flood(self, events: list[Event]) -> list[Event]:
        """The events; of tenants that had too many refusals in this second, the rest of those as counts.

        They are counted turn by turn, and written with the turn: who was refused was answered, and a kill must not lose that.
        """
        refusals, most = self._refusals, self._detailed_refusals
        detailed: list[Event] = []
        flood: Counts | None = None
        for event in events:
            if type(event) is DecisionEvent and event.code != "ok":
                number = refusals[event.tenant_id] = refusals.get(event.tenant_id, 0) + 1
                if number > most:
                    flood = flood or Counts()
                    flood.add(event)
                    self.stats.flood_events += 1
                    continue
            detailed.append(event)
        return detailed if flood is None else detailed + flood.take()

    def _give_up_details(self, events: list[Event]) -> None:
        """Keeps what counts of the events: decisions with what came of them in the same turn as counts, the rest as it is."""
        self.stats.folded_events += sum(isinstance(event, DecisionEvent) for event in events)
        self._overflow.add(events)

    def _take_back(self, while_used: float = math.inf) -> None:
        """Makes what lies beside the spool the last segment of it, where there is room again; else sums it up there."""
        if self._overflow.is_empty:
            if self._without_room and self._used < self._max_bytes:
                self._without_room = False
                with contextlib.suppress(OSError):
                    log.info("spool.has_room_again", spool=self._root, folded_events=self.stats.folded_events)
            return
        if self._used <= while_used:
            start = max(self._position, self._segment_start + 1)  # segments are named by where they begin
            with contextlib.suppress(OSError):
                file, self._position = self._overflow.become_segment(start)
                self._segment_has_ended = True
                self._unsynced.append(file)
                self._used += self._position - start
                return
        self._overflow.shrink()

    # --- the file -------------------------------------------------------------------------------------------------------

    def _write(self, events: list[Event]) -> bool:
        """Writes ``events`` as one frame; ``False`` where there is no room, and then nothing of them is in the file."""
        if not events:
            return True
        try:
            end = write_frame(events, self._buffer, self._position)
        except FrameTooLargeError:
            return self._write_halves(events)
        except Exception as error:  # noqa: BLE001  one event that can't be written must not take the others with it
            return self._write_each(events, error)
        if self._used + len(self._buffer) > self._max_bytes:
            self._note_no_room(f"the spool holds {self._used} bytes")
            return False
        try:
            self._put(self._buffer)
        except OSError as error:
            self.stats.failed_writes += 1
            self._note_no_room(f"{type(error).__name__}: {error.strerror}")
            return False
        self._position = end
        self._used += len(self._buffer)
        self.stats.frames += 1
        self.stats.bytes += len(self._buffer)
        return True

    def _put(self, data: bytearray) -> None:
        """Appends ``data`` to the segment, whole or not at all. Raises ``OSError``."""
        if self._segment_has_ended or self._position - self._segment_start >= self._segment_bytes:
            self._begin_segment()
        written = os.write(self._file, data)
        if written == len(data):
            return
        try:
            with memoryview(data) as view:
                while written < len(data):
                    written += os.write(self._file, view[written:])
        except OSError:
            self._cut_off(written)
            raise

    def _cut_off(self, written: int) -> None:
        """Takes back the beginning of a frame whose rest could not be written."""
        try:
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
        except OSError:
            self._segment_has_ended = True  # a reader finds the torn frame, and goes on with the next segment

    def _begin_segment(self) -> None:
        if self._position == self._segment_start:
            # Nothing of this segment counts; the next one needs a name of its own.
            self._position += 1
        start, before = self._segment_start, self._file
        self._segment_start = self._position
        try:
            self._file = self._open_segment()
        except OSError:
            self._segment_start = start
            raise
        self._segment_has_ended = False
        self._unsynced.append(before)

    def _open_segment(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        return open_file(self._directory, segment_name(self._segment_start), flags)

    def _write_halves(self, events: list[Event]) -> bool:
        if len(events) == 1:
            self._give_up_details(events)
            return True
        half = len(events) // 2
        for some in (events[:half], events[half:]):
            if not self._write(some):
                self._give_up_details(some)
        return True

    def _write_each(self, events: list[Event], error: Exception) -> bool:
        """Writes each event by itself; what can't be encoded is counted by tenant and code only."""
        if len(events) > 1:
            for event in events:
                if not self._write([event]):
                    self._give_up_details([event])
            return True
        log.error("spool.event_not_encodable", error=f"{type(error).__name__}: {error}"[:200])
        event = events[0]
        if isinstance(event, DecisionEvent):
            units = event.units if isinstance(event.units, int) and 0 <= event.units < _LARGEST_COST else 1
            flags = event.flags & ~HELD  # what it costs in the end has nothing to be put together with
            self._give_up_details(
                [DecisionEvent(event.sequence, event.at_us, event.tenant_id, event.code, flags, units=units)]
            )
        return True

    def _note_no_room(self, reason: str) -> None:
        if not self._without_room:
            self._without_room = True
            with contextlib.suppress(OSError):  # the log may lie on the disk that is full
                log.warning(
                    "spool.no_room", spool=self._root, reason=reason, policy="decisions are counted without details"
                )


def _parts(events: list[Event]) -> Iterator[list[Event]]:
    """The events in lists of no more than a frame should hold."""
    if len(events) <= MAX_FRAME_EVENTS:
        yield events  # the usual case, without a copy
        return
    for first in range(0, len(events), MAX_FRAME_EVENTS):
        yield events[first : first + MAX_FRAME_EVENTS]


def _sync(directory: int, files: list[int], root: Path) -> int | None:
    """Has the disk take what was written to ``files``, closes them, and returns how much all spools take."""
    for file in files:
        with contextlib.suppress(OSError):
            os.fsync(file)
        with contextlib.suppress(OSError):
            os.close(file)
    with contextlib.suppress(OSError):
        os.fsync(directory)
    try:
        return bytes_in(root)
    except OSError:
        return None
