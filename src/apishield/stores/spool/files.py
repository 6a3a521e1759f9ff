"""The files of a spool: a directory per process, for its owner only; a lock; segments named by the position they begin at.

No link is followed: whoever may write to the directory could otherwise have a service that runs as another user write
where it should not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets as system_random
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

log = structlog.get_logger("apishield.spool")

LOCK = "lock"
_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600
_SPOOL = re.compile(r"[0-9a-f]{8}")
_SEGMENT = re.compile(r"([0-9a-f]{16})\.log")


def spool_name(spool: int) -> str:
    """The name of a spool's directory."""
    return f"{spool:08x}"


def segment_name(start: int) -> str:
    """The name of the segment whose first frame begins at position ``start``."""
    return f"{start:016x}.log"


def make_root(root: Path) -> None:
    """Makes the directory of all spools where there is none. Raises ``OSError``."""
    root.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)


def open_directory(path: Path) -> int:
    """A descriptor of a directory that is no link. Raises ``OSError``."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def open_file(directory: int, name: str, flags: int) -> int:
    """A descriptor of a file in ``directory`` that is no link. Raises ``OSError``."""
    return os.open(name, flags | os.O_NOFOLLOW, _FILE_MODE, dir_fd=directory)


def take_lock(directory: int, *, create: bool = False) -> int | None:
    """A descriptor that holds the lock of the spool in ``directory``, or ``None`` where a living process holds it."""
    descriptor = open_file(directory, LOCK, os.O_RDWR | (os.O_CREAT if create else 0))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def gone_name(spool: int) -> str:
    """A name for the directory of a spool that is being removed; a new one each time, as nothing may stand in its way."""
    return f".gone-{spool_name(spool)}-{system_random.token_hex(8)}"


def make_spool(root: Path, spool: int) -> tuple[int, int]:
    """Makes the directory of a spool; returns its descriptor and that of its lock, which is held.

    It gets its name only with the lock taken: otherwise a worker could find it unlocked, and remove it as done with.
    Raises ``FileExistsError`` where there is a spool of this number, ``OSError`` where none can be made.
    """
    make_root(root)
    draft = root / f".new-{system_random.token_hex(8)}"
    draft.mkdir(_DIRECTORY_MODE)
    directory = open_directory(draft)
    try:
        lock = take_lock(directory, create=True)
        assert lock is not None, "nobody else knows the name"
        if (root / spool_name(spool)).exists():  # a rename would replace an empty one
            raise FileExistsError(root / spool_name(spool))
        draft.rename(root / spool_name(spool))
    except BaseException:
        os.close(directory)
        remove_tree(draft)
        raise
    return directory, lock


def spools_in(root: Path) -> list[int]:
    """The numbers of the spools in ``root``, in order."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                int(entry.name, 16)
                for entry in entries
                if _SPOOL.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []


def segments_in(directory: int) -> list[tuple[int, int]]:
    """The segments in ``directory``, in order: where each begins, and its size in bytes."""
    found: list[tuple[int, int]] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            match = _SEGMENT.fullmatch(entry.name)
            if match is not None:
                with contextlib.suppress(FileNotFoundError):
                    found.append((int(match[1], 16), entry.stat(follow_symlinks=False).st_size))
    return sorted(found)


def bytes_in(root: Path) -> int:
    """How many bytes the segments of all spools in ``root`` take."""
    return sum(size for _, size in _all_segments(root))


def _all_segments(root: Path) -> Iterator[tuple[int, int]]:
    for spool in spools_in(root):
        with contextlib.suppress(FileNotFoundError):
            directory = open_directory(root / spool_name(spool))
            try:
                yield from segments_in(directory)
            finally:
                os.close(directory)


def remove_tree(path: Path) -> bool:
    """Removes whatever lies at ``path``, of a link the link only. Returns ``False`` where something could not be removed.

    It does not raise: what nobody needs any more must keep nobody from their work.
    """
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)  # follows no link, not even one that is put there meanwhile
        else:
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError as error:
        log.warning("spool.not_removed", path=str(path), error=str(error))
        return False
    return True
