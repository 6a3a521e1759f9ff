"""Where damaged bytes of a spool are kept, for a person to look at; bounded, so that a bad disk fills no good one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from apishield.stores.spool.files import make_root, open_directory, open_file

QUARANTINE = "quarantine"
MAX_QUARANTINED_BYTES = 16 * 1024 * 1024


def put_aside(root: Path, name: str, data: bytes) -> str | None:
    """Keeps ``data`` as a file of ``root``'s quarantine; its path, or ``None`` where there is no room for it.

    The same bytes found again, as after a restart, are kept once.
    """
    path = root / QUARANTINE
    try:
        make_root(path)
        directory = open_directory(path)
    except OSError:
        return None
    try:
        if _bytes_in(directory) + len(data) > MAX_QUARANTINED_BYTES:
            return None
        with contextlib.suppress(FileExistsError):
            file = open_file(directory, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                os.write(file, data)
            finally:
                os.close(file)
    except OSError:
        return None
    finally:
        os.close(directory)
    return str(path / name)


def _bytes_in(directory: int) -> int:
    with os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
