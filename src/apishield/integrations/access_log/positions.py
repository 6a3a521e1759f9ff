"""Up to where a log has been reported, kept in a small file beside it.

A bookmark knows its file again by how it begins: inodes are used again, and ``copytruncate`` keeps the inode of what is another
file by then. A result that is told twice counts once, so a bookmark that is a little old does no harm.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

log = logging.getLogger("apishield")

HEAD_BYTES = 1024  # several lines, each with an id that no other line has


class Bookmark(msgspec.Struct, frozen=True):
    """``offset`` bytes are reported of the file that begins with ``head_bytes`` bytes of this digest.

    ``changed_at_ns`` is when it had been written to last: what was rotated away since was written to later.
    """

    device: int
    inode: int
    offset: int
    changed_at_ns: int
    head_bytes: int
    head_digest: str


class _Kept(msgspec.Struct, frozen=True):
    files: list[Bookmark]


def digest(head: bytes) -> str:
    """How the beginning of a file is known again."""
    return hashlib.sha256(head).hexdigest()


class PositionFile:
    """The bookmarks of one log, the oldest file first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> list[Bookmark]:
        """What was kept; nothing where there is no such file, or one that can't be read."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Kept).files
        except FileNotFoundError:
            return []
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s can't be read, so the log is reported from its beginning: %s", self.path, error)
            return []

    def save(self, bookmarks: Sequence[Bookmark]) -> None:
        """Keeps ``bookmarks``, all or none of them, also over a power cut."""
        written = self.path.with_name(f"{self.path.name}.new")
        with written.open("wb") as file:
            file.write(msgspec.json.encode(_Kept(list(bookmarks))))
            file.flush()
            os.fsync(file.fileno())
        written.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
