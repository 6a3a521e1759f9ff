"""Where lines come from: a log file that is followed, or standard input."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from apishield.client.models import Report
from apishield.integrations.access_log.follower import Follower
from apishield.integrations.access_log.lines import UnreadableLine, read_line
from apishield.integrations.access_log.logfile import CHUNK_BYTES
from apishield.integrations.access_log.positions import PositionFile
from apishield.integrations.reports import ReportQueue

log = logging.getLogger("apishield")

PIPE_CAPACITY = 100_000  # reports; about 30 MB


class LineReader:
    """Reads lines into reports; counts those that are none in ``skipped``, by why."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    def read(self, line: bytes) -> Report | None:
        """The report of a line, if it holds one."""
        try:
            return read_line(line)
        except UnreadableLine as error:
            self.skipped[str(error)] += 1
            return None


class Source(Protocol):
    """Gives reports, each until ``commit`` says that those taken so far need not be given again."""

    def take(self, most: int) -> list[Report]:
        """The next reports, ``most`` at most."""
        ...

    def commit(self) -> None:
        """What was taken so far has arrived."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether so much is left that it should be taken at once."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing is left at this moment."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether nothing will ever come any more."""
        ...

    @property
    def lost(self) -> int:
        """How many reports were given up because too many waited."""
        ...


class FileSource:
    """A log file. It is its own queue: while the service is away nothing is read, and a restart goes on where this one ended.

    ``once``: ends with the log instead of waiting for more.
    """

    lost = 0

    def __init__(
        self,
        path: Path,
        positions: PositionFile,
        reader: LineReader,
        *,
        once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._positions, self._reader, self._once = positions, reader, once
        self._kept = positions.load()
        self._follower = Follower(path, self._kept, clock)
        self._most, self._taken = 1, 0

    def take(self, most: int) -> list[Report]:
        """See ``Source``."""
        lines = self._follower.take(most)
        self._most, self._taken = most, len(lines)
        return [report for line in lines if (report := self._reader.read(line)) is not None]

    def commit(self) -> None:
        """Writes down where we are, where that is news."""
        bookmarks = self._follower.bookmarks
        if bookmarks != self._kept:
            self._positions.save(bookmarks)
            self._kept = bookmarks

    @property
    def is_behind(self) -> bool:
        """See ``Source``."""
        return self._once or self._taken >= self._most or self._follower.unread_bytes >= CHUNK_BYTES

    @property
    def is_exhausted(self) -> bool:
        """See ``Source``."""
        return self._follower.is_exhausted

    @property
    def has_ended(self) -> bool:
        """See ``Source``."""
        return self._once and self.is_exhausted


class PipeSource:
    """Standard input, or another pipe. Whoever writes to it is never held up: when too much waits, the oldest is dropped."""

    def __init__(self, descriptor: int, reader: LineReader, *, capacity: int = PIPE_CAPACITY) -> None:
        self._descriptor, self._reader = descriptor, reader
        self._queue = ReportQueue(capacity)
        self._rest = b""
        self._closed = False
        self._most = 1

    def start(self) -> None:
        """Begins to read, in a thread; what is read comes to the running loop."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="apishield-input", daemon=True).start()

    @property
    def lost(self) -> int:
        """See ``Source``."""
        return self._queue.dropped

    def feed(self, chunk: bytes) -> None:
        """Takes in what was read; nothing is the end."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk or len(self._rest) > CHUNK_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            report = self._reader.read(line)
            if report is not None:
                self._queue.add(report)
        self._closed = self._closed or not chunk

    def take(self, most: int) -> list[Report]:
        """See ``Source``."""
        self._most = most
        return self._queue.take(most)

    def commit(self) -> None:
        """Nothing is kept of a pipe."""

    @property
    def is_behind(self) -> bool:
        """See ``Source``."""
        return len(self._queue) >= self._most

    @property
    def is_exhausted(self) -> bool:
        """See ``Source``."""
        return not len(self._queue)

    @property
    def has_ended(self) -> bool:
        """See ``Source``."""
        return self._closed and self.is_exhausted

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        chunk = b"-"
        while chunk:
            try:
                chunk = os.read(self._descriptor, CHUNK_BYTES)
                loop.call_soon_threadsafe(self.feed, chunk)
            except RuntimeError:  # the loop has ended
                return
