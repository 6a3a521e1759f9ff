"""Reads what a process has written to its spool, and removes what was taken; the process may live or be gone.

A frame that was torn off by a kill is cut; one that is damaged is put aside, and the next is taken. Positions are logical: they
stay what they were when files are deleted or details are folded.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

import msgspec
import structlog

from apishield.core.events import Frame, SpoolPart
from apishield.stores.spool.files import (
    gone_name,
    open_directory,
    open_file,
    remove_tree,
    segment_name,
    segments_in,
    spool_name,
    take_lock,
)
from apishield.stores.spool.frames import READ_BYTES, events_in, frame_at, is_torn, next_frame, size_of
from apishield.stores.spool.overflow import take_in
from apishield.stores.spool.quarantine import put_aside

log = structlog.get_logger("apishield.spool")

READ_EVENTS = 40_000
"""More cost less each, since more of them count in the same rows, but hold the database's one writer longer."""
_CHUNK_BYTES = READ_BYTES


class ReaderStats(msgspec.Struct):
    """Plain numbers of the readers of a node, which only grow. ``bytes`` are those of segments that were taken and deleted."""

    frames: int = 0
    events: int = 0
    bytes: int = 0
    torn_frames: int = 0
    damaged_frames: int = 0
    removed_spools: int = 0
    folded_segments: int = 0
    folded_events: int = 0


class SpoolReader:
    """One spool below ``root``. Raises ``FileNotFoundError`` where there is none.

    ``orphaned`` is whether its process is gone, this reader holds the lock in its place, and all that the process has left is
    in segments; see ``adopt``. ``behind`` is whether the last read ended because it had enough, and not because there was no
    more.
    """

    def __init__(self, root: Path, spool: int, stats: ReaderStats | None = None) -> None:
        self.spool = spool
        self.stats = ReaderStats() if stats is None else stats
        self._root = root
        self._directory = open_directory(root / spool_name(spool))
        self._lock: int | None = None
        self._has_overflow = True  # for all that is known
        self.behind = False
        self._cursor = (-1, 0, 0)  # position, segment and offset in it at which the last read ended
        self._faults: set[tuple[int, int]] = set()

    @property
    def orphaned(self) -> bool:
        """Whether nobody writes to this spool any more, and nobody but this reader may remove it."""
        return self._lock is not None and not self._has_overflow

    def adopt(self) -> bool:
        """Takes the lock where the spool's process is gone, and in what it had kept beside the spool; returns ``orphaned``."""
        if self._lock is None:
            with contextlib.suppress(FileNotFoundError):
                self._lock = take_lock(self._directory)
        if self._lock is not None and self._has_overflow:
            try:
                self.stats.damaged_frames += take_in(self._root, self._directory, self.spool)
            except OSError as error:  # the disk is full: taking what is in the segments gives room
                log.debug("spool.overflow_not_taken_in", spool=spool_name(self.spool), error=str(error))
            else:
                self._has_overflow = False
        return self.orphaned

    def read(self, position: int, max_bytes: int = READ_BYTES, max_events: int = READ_EVENTS) -> tuple[SpoolPart, int]:
        """The next frames behind ``position``, and the position behind the last of them.

        There are none, and the position is the same, where all was read. One frame is given however large it is.
        """
        frames: list[Frame] = []
        segments = segments_in(self._directory)
        starts = [start for start, _ in segments]
        first = max((number for number, start in enumerate(starts) if start <= position), default=0)
        reading = _Reading(position, min(max_bytes, READ_BYTES), max_events, frames)
        for number in range(first, len(segments)):
            following = starts[number + 1] if number + 1 < len(starts) else None
            if not self._read_segment(starts[number], following, reading):
                break
        self.behind = reading.has_enough
        self.stats.frames += len(frames)
        self.stats.events += reading.events
        return SpoolPart(self.spool, frames), reading.position

    def forget(self, position: int) -> None:
        """Deletes the segments that end at or before ``position``, which were taken."""
        segments = segments_in(self._directory)
        for (start, size), (following, _) in itertools.pairwise(segments):
            if following <= position:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(segment_name(start), dir_fd=self._directory)
                self.stats.bytes += size

    def remove(self) -> None:
        """Deletes the spool, all of which was taken. It must be ``orphaned``."""
        assert self.orphaned, "a living process writes to it"
        path = self._root / spool_name(self.spool)
        gone = self._root / gone_name(self.spool)
        path.rename(gone)  # at once, so that nobody finds half of it
        remove_tree(gone)
        self.stats.removed_spools += 1
        self.close()

    def close(self) -> None:
        """Lets go of the files, and of the lock where it was held."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _read_segment(self, start: int, following: int | None, reading: _Reading) -> bool:
        """Adds the frames of one segment; ``False`` where enough was read."""
        position, segment, offset = self._cursor
        if (position, segment) != (reading.position, start):
            offset = 0
        try:
            file = open_file(self._directory, segment_name(start), os.O_RDONLY)
        except FileNotFoundError:  # deleted since it was listed: it was taken
            return True
        try:
            while True:
                data = os.pread(file, _CHUNK_BYTES, offset)
                taken, goes_on = self._take_frames(data, following, reading)
                offset += taken
                self._cursor = (reading.position, start, offset)
                if not goes_on:
                    return False
                if taken == 0:
                    offset, goes_on = self._pass_fault(file, start, offset, is_last=following is None)
                    if not goes_on:
                        return True
        finally:
            os.close(file)

    def _take_frames(self, data: bytes, following: int | None, reading: _Reading) -> tuple[int, bool]:
        """Takes whole frames from the beginning of ``data``: how many bytes they are, and whether more may be read."""
        offset = 0
        while (frame := frame_at(data, offset)) is not None:
            # A frame behind the next segment's begin was taken back by its writer, who could not cut it off.
            wanted = frame.end > reading.position and (following is None or frame.end <= following)
            if wanted and not reading.take(frame):
                return offset, False
            offset += size_of(frame)
        return offset, True

    def _pass_fault(self, file: int, segment: int, offset: int, *, is_last: bool) -> tuple[int, bool]:
        """What to do where no whole frame begins at ``offset``: where to go on, and whether there is something to read."""
        size = os.fstat(file).st_size
        data = os.pread(file, size - offset, offset) if size > offset else b""
        if not data:
            return offset, False
        growing = is_last and not self.orphaned
        next_offset = next_frame(data, 0)
        if next_offset == 0:  # it was being written when it was read first
            return offset, True
        if next_offset is not None:
            self._note_fault(segment, offset, data[:next_offset])
            return offset + next_offset, True
        if growing:
            return offset, False  # the rest of it will come
        if is_torn(data, 0):
            self._note_torn(segment, offset, len(data))
        else:
            self._note_fault(segment, offset, data)
        return offset, False

    def _note_torn(self, segment: int, offset: int, length: int) -> None:
        if (segment, offset) not in self._faults:
            self._faults.add((segment, offset))
            self.stats.torn_frames += 1
            log.info("spool.torn_frame", spool=spool_name(self.spool), segment=segment, offset=offset, bytes=length)

    def _note_fault(self, segment: int, offset: int, data: bytes) -> None:
        if (segment, offset) in self._faults:
            return
        self._faults.add((segment, offset))
        self.stats.damaged_frames += 1
        name = f"{spool_name(self.spool)}-{segment:016x}-{offset}"
        kept = put_aside(self._root, name, data)
        log.error("spool.damaged_frame", spool=spool_name(self.spool), segment=segment, offset=offset, quarantine=kept)


class _Reading:
    """What one call of ``read`` has gathered, and how much it may."""

    def __init__(self, position: int, max_bytes: int, max_events: int, frames: list[Frame]) -> None:
        self.position = position
        self.events = 0
        self.has_enough = False
        self._most = position + max_bytes
        self._max_events = max_events
        self._frames = frames

    def take(self, frame: Frame) -> bool:
        """Adds ``frame`` where there is room for it, or where it is the first."""
        events = self.events + events_in(frame.payload)
        if self._frames and (frame.end > self._most or events > self._max_events):
            self.has_enough = True
            return False
        self._frames.append(frame)
        self.position, self.events = frame.end, events
        return True
