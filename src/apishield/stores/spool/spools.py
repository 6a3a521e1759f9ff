"""All spools of a node, for the one worker that drains them."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from pathlib import Path

import structlog

from apishield.stores.spool.files import (
    bytes_in,
    make_root,
    open_directory,
    open_file,
    remove_tree,
    segment_name,
    segments_in,
    spool_name,
    spools_in,
    take_lock,
)
from apishield.stores.spool.folding import fold_segment, foldable
from apishield.stores.spool.reader import ReaderStats, SpoolReader

log = structlog.get_logger("apishield.spool")

DRAIN_LOCK = "drain.lock"
FULL = 0.8  # from here on details are given up


class Spools:
    """The spools below ``root``, of processes that live and of those that are gone.

    ``max_bytes`` is how much they may take together; ``used_bytes`` how much they did at the last look.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.root = root
        self.stats = ReaderStats()
        self.used_bytes = 0
        self._max_bytes = max_bytes
        self._lock: int | None = None
        self._readers: dict[int, SpoolReader] = {}
        self._kept_as_they_are: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def orphans(self) -> int:
        """How many spools are left of processes that are gone."""
        return sum(reader.orphaned for reader in self._readers.values())

    def hold(self) -> bool:
        """Whether this is the worker that drains; takes the lock where nobody has it. Raises ``OSError``."""
        if self._lock is not None:
            return True
        make_root(self.root)
        root = open_directory(self.root)
        try:
            lock = open_file(root, DRAIN_LOCK, os.O_RDWR | os.O_CREAT)
        finally:
            os.close(root)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        self._clear_up()
        return True

    def readers(self) -> list[SpoolReader]:
        """A reader for each spool there is."""
        found = spools_in(self.root)
        for spool in set(self._readers) - set(found):
            self._readers.pop(spool).close()
        for spool in found:
            if spool not in self._readers:
                with contextlib.suppress(FileNotFoundError):
                    self._readers[spool] = SpoolReader(self.root, spool, self.stats)
        return list(self._readers.values())

    def make_room(self) -> int:
        """Folds the oldest details that wait while more than 80 % is taken; returns how many bytes that gave.

        Only for whoever holds the lock, between two reads.
        """
        self.used_bytes = bytes_in(self.root)
        given = 0
        if self.used_bytes <= FULL * self._max_bytes:
            return given
        for _, spool, start, following in sorted(self._foldable()):
            if self.used_bytes - given <= FULL * self._max_bytes:
                break
            given += self._fold(spool, start, following)
        if given:
            log.warning(
                "spool.folded", bytes=given, folded_events=self.stats.folded_events, used=self.used_bytes - given
            )
        self.used_bytes -= given
        return given

    def close(self) -> None:
        """Lets go of all files and locks; what was not drained waits for the next worker."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _foldable(self) -> list[tuple[float, int, int, int]]:
        """Age, spool, begin and next begin of the segments that may be folded and were not yet."""
        found = []
        for spool in self._readers:
            with contextlib.suppress(FileNotFoundError), _Directory(self.root / spool_name(spool)) as directory:
                starts = [start for start, _ in segments_in(directory)]
                following = dict(itertools.pairwise(starts))
                for start in foldable(directory):
                    if (spool, start) not in self._kept_as_they_are:
                        modified = os.stat(segment_name(start), dir_fd=directory, follow_symlinks=False).st_mtime
                        found.append((modified, spool, start, following[start]))
        return found

    def _fold(self, spool: int, start: int, following: int) -> int:
        self._kept_as_they_are.add((spool, start))
        try:
            with _Directory(self.root / spool_name(spool)) as directory:
                given, events = fold_segment(directory, spool, start, following)
        except Exception as error:  # noqa: BLE001  a segment that can't be folded stays; the others are tried
            log.warning(
                "spool.not_folded", spool=spool_name(spool), segment=start, error=f"{type(error).__name__}: {error}"
            )
            return 0
        self.stats.folded_segments += given > 0
        self.stats.folded_events += events
        return given

    def _clear_up(self) -> None:
        """Removes what processes left that were killed while they made or removed a spool."""
        for path in self.root.glob(".gone-*"):
            remove_tree(path)
        for path in self.root.glob(".new-*"):
            with contextlib.suppress(OSError), _Directory(path) as directory:
                lock = take_lock(directory)
                if lock is not None:
                    try:
                        remove_tree(path)
                    finally:
                        os.close(lock)


class _Directory:
    """An open directory, closed with the block."""

    def __init__(self, path: Path) -> None:
        self._descriptor = open_directory(path)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
