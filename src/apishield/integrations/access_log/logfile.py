"""One file of a log, open: the whole lines that are in it, from a place on."""

from __future__ import annotations

import os
from pathlib import Path

from apishield.integrations.access_log.positions import HEAD_BYTES, Bookmark, digest

CHUNK_BYTES = 256 * 1024  # and the longest line: what is longer is skipped


class LogFile:
    """A file from ``offset`` on. It stays the same file when it is renamed or deleted."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.idle_since: float | None = None
        self._descriptor = os.open(path, os.O_RDONLY)
        found = os.fstat(self._descriptor)
        self.identity = (found.st_dev, found.st_ino)
        self._head = os.pread(self._descriptor, HEAD_BYTES, 0)
        self._in_long_line = False

    def holds(self, bookmark: Bookmark) -> bool:
        """Whether ``bookmark``, at whose place it was opened, lies in it."""
        if bookmark.head_bytes == 0:
            return self.identity == (bookmark.device, bookmark.inode)
        return self.size >= bookmark.offset and digest(self._head[: bookmark.head_bytes]) == bookmark.head_digest

    @property
    def size(self) -> int:
        """How many bytes are in it now."""
        return os.fstat(self._descriptor).st_size

    @property
    def changed_at_ns(self) -> int:
        """When it was last written to."""
        return os.fstat(self._descriptor).st_mtime_ns

    @property
    def bookmark(self) -> Bookmark:
        """Where we are in it."""
        device, inode = self.identity
        return Bookmark(device, inode, self.offset, self.changed_at_ns, len(self._head), digest(self._head))

    def look_again(self) -> bool:
        """Whether it is still what it was: false where it was emptied, and perhaps written to again."""
        head = os.pread(self._descriptor, HEAD_BYTES, 0)
        if self.size < self.offset or not head.startswith(self._head):
            return False
        self._head = head
        return True

    def restart(self) -> None:
        """Goes back to the beginning of what it holds now."""
        self.offset, self._in_long_line = 0, False
        self._head = os.pread(self._descriptor, HEAD_BYTES, 0)

    def take(self, most: int) -> list[bytes]:
        """The next whole lines, ``most`` at most; a line of more than ``CHUNK_BYTES`` comes as its first part."""
        chunk = os.pread(self._descriptor, CHUNK_BYTES, self.offset)
        whole, newline, _ = chunk.rpartition(b"\n")
        in_long_line = self._in_long_line
        if not newline:
            if len(chunk) < CHUNK_BYTES:
                return []  # nothing new, or a line that is still being written
            self._in_long_line = True
            self.offset += len(chunk)
            return [] if in_long_line else [chunk]
        lines = whole.split(b"\n", most)[:most]
        self._in_long_line = False
        self.offset += sum(map(len, lines)) + len(lines)
        return lines[1:] if in_long_line else lines

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)
