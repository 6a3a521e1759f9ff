"""What a process keeps beside its spool while that has no room: decisions as counts, what is told of them later as it is.

It lies in a file of its own in the spool's directory, and is written turn by turn, as the spool is: a kill loses nothing of it.
No reader looks into it, so unlike segments it may be written anew at any time, summed: its size goes by the kinds there are to
count, and not by how long there is no room. Once there is some, it becomes a segment by being renamed: it is in the spool or
beside it, and never both. Of a process that was killed, whoever takes its lock does that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from apishield.core.events import CountEvent, DecisionEvent, Event
from apishield.stores.spool.counts import Counts
from apishield.stores.spool.files import open_file, segment_name, segments_in, spool_name
from apishield.stores.spool.folding import fold
from apishield.stores.spool.frames import frame_at, is_torn, next_frame, size_of, write_frame
from apishield.stores.spool.quarantine import put_aside

log = structlog.get_logger("apishield.spool")

NAME: Final = "overflow"
MAX_KEPT: Final = 50_000
"""How many decisions that may yet be settled are kept apart; further ones are counted at what they were charged."""
_DRAFT: Final = "overflow.new"
_EVENTS_A_FRAME: Final = 1024
_SMALL_BYTES: Final = 64 * 1024


class Overflow:
    """The overflow of a living process, in the directory of its spool.

    ``is_written`` is whether all of it is in the file; else the disk takes no more, and the rest is in memory. ``kept`` is how
    much of it can't be counted: decisions that may yet be settled, results and settlements of decisions that lie elsewhere.
    """

    def __init__(self, directory: int, spool: int) -> None:
        self.is_written = True
        self._directory, self._spool = directory, spool
        self._counts = Counts()
        self._kept: list[Event] = []
        self._buffer = bytearray()
        self._file: int | None = None
        self._bytes = self._bytes_when_new = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (self._counts or self._kept)

    @property
    def kept(self) -> int:
        """How many events it holds besides counts."""
        return len(self._kept)

    def __len__(self) -> int:
        return len(self._counts) + len(self._kept)

    def add(self, events: Iterable[Event]) -> None:
        """Takes the events of a turn without their details, and writes them; see ``is_written``."""
        new = self._remember(fold(self._spool, events))
        if not new or not self.is_written:
            return
        try:
            self._append(new)
        except OSError:
            self.is_written = False

    def shrink(self) -> None:
        """Writes it anew, summed, where the file is twice as large as it need be, or lacks something."""
        if self.is_empty or (self.is_written and self._bytes < 2 * self._bytes_when_new + _SMALL_BYTES):
            return
        with contextlib.suppress(OSError):
            self._write_anew(0)

    def become_segment(self, start: int) -> tuple[int, int]:
        """Becomes the segment that begins at ``start``, where the spool ends; a descriptor of it, and where that ends.

        It is empty then. Raises ``OSError``, with all in it as it was.
        """
        size = self._write_anew(start)
        os.rename(NAME, segment_name(start), src_dir_fd=self._directory, dst_dir_fd=self._directory)
        file, self._file = self._file, None
        assert file is not None
        self._counts, self._kept = Counts(), []
        self._bytes = self._bytes_when_new = 0
        return file, start + size

    def duplicate(self) -> int | None:
        """A descriptor of the file, for whoever has the disk take it; ``None`` where there is none."""
        return None if self._file is None else os.dup(self._file)

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _remember(self, folded: Iterable[Event]) -> list[Event]:
        """Adds events that were folded to what is known to be in it; returns them."""
        counts, kept = Counts(), list[Event]()
        for event in folded:
            if isinstance(event, CountEvent):
                counts.put_back([event])
            elif isinstance(event, DecisionEvent) and len(self._kept) + len(kept) >= MAX_KEPT:
                counts.add(event)
            else:
                kept.append(event)
        counted = counts.take()
        self._counts.put_back(counted)
        self._kept += kept
        return [*counted, *kept]

    def _append(self, events: list[Event]) -> None:
        """Appends a frame, whole or not at all. Raises ``OSError``."""
        if self._file is None:
            self._file = open_file(self._directory, NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        write_frame(events, self._buffer, self._bytes)
        written = 0
        try:
            with memoryview(self._buffer) as view:
                while written < len(self._buffer):
                    written += os.write(self._file, view[written:])
        except OSError:
            if written:
                os.ftruncate(self._file, self._bytes)
            raise
        self._bytes += written

    def _write_anew(self, start: int) -> int:
        """Replaces the file by one that holds all, as a segment that begins at ``start``; its size. Raises ``OSError``."""
        counts, kept = self._counts, self._kept
        self._counts, self._kept = Counts(), []
        self._remember(fold(self._spool, [*counts.take(), *kept]))  # what was settled meanwhile is counted now
        known = self._counts.take()
        self._counts.put_back(known)
        data = _as_frames([*known, *self._kept], start)
        file = _replace(self._directory, data)
        self.close()
        self._file = file
        self._bytes = self._bytes_when_new = len(data)
        self.is_written = True
        return len(data)


def take_in(root: Path, directory: int, spool: int) -> int:
    """Makes the overflow of a process that is gone the last segment of its spool. Only for whoever holds the spool's lock.

    What of it is damaged is put aside; returns how many pieces that was. Raises ``OSError``, with all of it as it was.
    """
    try:
        with os.fdopen(open_file(directory, NAME, os.O_RDONLY), "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return 0
    events, damaged = _read(content)
    for offset, piece in damaged:
        name = f"{spool_name(spool)}-{NAME}-{offset}"
        log.error(
            "spool.damaged_frame", spool=spool_name(spool), offset=offset, quarantine=put_aside(root, name, piece)
        )
    segments = segments_in(directory)
    last, size = segments[-1] if segments else (0, 0)
    start = last + max(size, 1)  # behind all that lies in it, and with a name of its own
    os.close(_replace(directory, _as_frames(fold(spool, events), start)))
    os.rename(NAME, segment_name(start), src_dir_fd=directory, dst_dir_fd=directory)
    return len(damaged)


def _read(content: bytes) -> tuple[list[Event], list[tuple[int, bytes]]]:
    """The events, and what lies between them: where it begins, and what it is. A frame that breaks off at the end is cut."""
    events, damaged, offset = list[Event](), list[tuple[int, bytes]](), 0
    while offset < len(content):
        frame = frame_at(content, offset)
        end = next_frame(content, offset) or len(content) if frame is None else offset + size_of(frame)
        try:
            if frame is not None:
                events += frame.events()
            elif end < len(content) or not is_torn(content, offset):
                damaged.append((offset, content[offset:end]))
        except msgspec.DecodeError:
            damaged.append((offset, content[offset:end]))
        offset = end
    return events, damaged


def _as_frames(events: list[Event], start: int) -> bytes:
    data, buffer = bytearray(), bytearray()
    for first in range(0, len(events), _EVENTS_A_FRAME):
        write_frame(events[first : first + _EVENTS_A_FRAME], buffer, start + len(data))
        data += buffer
    return bytes(data)


def _replace(directory: int, data: bytes) -> int:
    """Replaces the file by one that holds ``data``, at once or not at all; its descriptor. Raises ``OSError``."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_DRAFT, dir_fd=directory)  # of a process that was killed
    file = open_file(directory, _DRAFT, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
    try:
        with memoryview(data) as view:
            written = 0
            while written < len(data):
                written += os.write(file, view[written:])
        os.rename(_DRAFT, NAME, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.close(file)
        with contextlib.suppress(OSError):
            os.unlink(_DRAFT, dir_fd=directory)
        raise
    return file
