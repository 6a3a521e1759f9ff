"""How far a spool was published: a small file beside its segments, written anew once all before it has arrived.

Where it is lost, or older than what was published, frames are published again, and dropped as known by whoever takes them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from apishield.stores.spool.files import open_directory, open_file, spool_name

_NAME, _DRAFT = "published", "published.new"


def read_published(root: Path, spool: int) -> int | None:
    """Up to where a spool was published; ``None`` where nothing says so."""
    with contextlib.suppress(FileNotFoundError):
        directory = open_directory(root / spool_name(spool))
        try:
            with os.fdopen(open_file(directory, _NAME, os.O_RDONLY), "rb") as file:
                content = file.read(32)
            return int(content) if content.isdigit() else None
        finally:
            os.close(directory)
    return None


def write_published(root: Path, spool: int, position: int) -> None:
    """Notes up to where a spool was published, whole or not at all, on the disk. Raises ``OSError``."""
    directory = open_directory(root / spool_name(spool))
    try:
        with os.fdopen(open_file(directory, _DRAFT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(b"%d" % position)
            file.flush()
            os.fsync(file.fileno())
        os.rename(_DRAFT, _NAME, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)
