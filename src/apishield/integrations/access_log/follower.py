"""Following a log that is rotated: renamed and opened anew, or copied and emptied; also while nobody followed it.

A file that was renamed is read on until it has been idle for a while, since a gateway writes to it until it is told to open its
log anew. What was rotated away unread is found by how it begins, unless it is compressed by then.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from apishield.integrations.access_log.logfile import LogFile
from apishield.integrations.access_log.positions import Bookmark

log = logging.getLogger("apishield")

GRACE_SECONDS = 60.0


class Follower:
    """Reads the log at ``path`` from where ``bookmarks`` lie, else from its beginning.

    ``clock`` gives seconds that only grow.
    """

    def __init__(self, path: Path, bookmarks: Sequence[Bookmark], clock: Callable[[], float]) -> None:
        self.path = path
        self._clock = clock
        self.is_exhausted = False
        """Whether the last ``take`` found nothing new."""
        self._files: list[LogFile] = []  # the oldest first, the log's own last
        self._ended: deque[tuple[tuple[int, int], int]] = deque(maxlen=100)
        self._looked_ns: int | None = max((bookmark.changed_at_ns for bookmark in bookmarks), default=None)
        self._is_missing = False
        self._find_again(bookmarks)
        self._look(was_rotated=True)

    @property
    def bookmarks(self) -> list[Bookmark]:
        """Where we are, in each file that may still be written to."""
        return [file.bookmark for file in self._files]

    def take(self, most: int) -> list[bytes]:
        """The next whole lines, ``most`` at most."""
        self._look()
        lines: list[bytes] = []
        self.is_exhausted = True
        for file in self._files:
            before = file.offset
            lines += file.take(most - len(lines))
            if file.offset != before:
                file.idle_since = None
                self.is_exhausted = False
            if len(lines) >= most:
                break
        else:
            self._let_go()
        return lines

    @property
    def unread_bytes(self) -> int:
        """How much there is to take."""
        return sum(max(0, file.size - file.offset) for file in self._files)

    def close(self) -> None:
        """Lets go of all files."""
        for file in self._files:
            file.close()
        self._files = []

    def _look(self, *, was_rotated: bool = False) -> None:
        """Opens what there is to read: what lies at the path now, and what was rotated away since the last look."""
        for file in list(self._files):
            if not file.look_again():
                self._go_back(file)
                was_rotated = True
        own = self._own()
        is_new = own is not None and own.identity not in self._known()
        if (is_new or was_rotated) and self._looked_ns is not None:
            later = sorted(self._later(self._looked_ns), key=lambda file: file.changed_at_ns)
            place = len(self._files) if is_new or not self._files else -1  # before the log's own
            self._files[place:place] = later
        if own is not None and is_new:
            self._files.append(own)
        elif own is not None:
            own.close()
        self._looked_ns = max((file.changed_at_ns for file in self._files), default=self._looked_ns)

    def _own(self) -> LogFile | None:
        try:
            own = LogFile(self.path)
        except FileNotFoundError:
            if not self._is_missing and not self._files:
                log.warning("%s is not there yet; waiting for it", self.path)
            self._is_missing = True
            return None
        self._is_missing = False
        return own

    def _go_back(self, file: LogFile) -> None:
        """Reads a file that was emptied from its beginning; first what was copied from it and not read yet."""
        copy = next(self._with(file.bookmark, self._rotated()), None)
        if copy is None:
            log.warning("%s was emptied, and no copy was found: what was not read yet is lost", self.path)
        else:
            self._files.insert(self._files.index(file), copy)
        file.restart()

    def _let_go(self) -> None:
        """Closes files that were rotated away and to which nothing was written for a while."""
        now = self._clock()
        for file in self._files[:-1]:
            file.idle_since = now if file.idle_since is None else file.idle_since
            if now - file.idle_since >= GRACE_SECONDS:
                self._ended.append((file.identity, file.changed_at_ns))
                file.close()
                self._files.remove(file)

    def _find_again(self, bookmarks: Sequence[Bookmark]) -> None:
        """Opens the files in which ``bookmarks`` lie."""
        rotated = self._rotated() if bookmarks else []
        for bookmark in bookmarks:
            found = next(self._with(bookmark, [self.path, *rotated]), None)
            if found is None:
                log.warning("%s was rotated away where it can't be read: some results are lost", self.path)
            elif found.identity in self._known():
                found.close()
            else:
                self._files.append(found)
        self._files.sort(key=lambda file: (file.path == self.path, file.changed_at_ns))

    def _known(self) -> set[tuple[int, int]]:
        return {file.identity for file in self._files}

    def _later(self, than_ns: int) -> Iterator[LogFile]:
        """What was rotated away unread: files that were written to since, and that we neither have open nor had."""
        known = self._known()
        for path in self._rotated():
            file = _opened(path)
            if file is None:
                continue
            changed_at_ns = file.changed_at_ns
            if changed_at_ns < than_ns or file.identity in known or (file.identity, changed_at_ns) in self._ended:
                file.close()
            else:
                yield file

    def _with(self, bookmark: Bookmark, paths: Iterable[Path]) -> Iterator[LogFile]:
        """The files among ``paths`` in which ``bookmark`` lies."""
        for path in paths:
            file = _opened(path, bookmark.offset)
            if file is None:
                continue
            if file.holds(bookmark):
                yield file
            else:
                file.close()

    def _rotated(self) -> list[Path]:
        """Files that may have been this log: its name, with digits in or behind it."""
        digits = r"[-._\d]*"
        name = re.compile(re.escape(self.path.stem) + digits + re.escape(self.path.suffix) + digits)
        with contextlib.suppress(FileNotFoundError):
            beside = list(self.path.parent.iterdir())
            return [path for path in beside if name.fullmatch(path.name) and path != self.path and path.is_file()]
        return []


def _opened(path: Path, offset: int = 0) -> LogFile | None:
    """The file, or ``None`` where it is gone or not for us to read."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        return LogFile(path, offset)
    return None
