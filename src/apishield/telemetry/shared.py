"""The processes of a node show one set of numbers, whichever of them is scraped.

Each process has a slot: a file in ``<data directory>/metrics`` that holds what it counted, written each second and at each
scrape. A scrape publishes its own numbers, then adds up all slots. So every number that was ever shown is on disk, and no
counter goes back when a process is killed; what it counted since it last published is lost to the metrics (never to the
ledger).

The slots are bounded: whoever starts takes the first that no living process holds (by a lock, which ends with the process)
and counts on from what lies there. Where no process of the node lives, all begins at zero.

prometheus-client's own multi-process mode was not taken: each increment there is a lookup and two writes to a mapped file
instead of an integer addition, its files of dead processes pile up, and it knows no collectors and no process numbers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from apishield.telemetry.catalogue import DEFINITIONS, Combine, Kind

FRESH_US: Final = 10_000_000
"""A process that has published nothing for longer does not live, or hangs: its counters count, its gauges do not."""
_OWNER_ONLY: Final = 0o600
_OWNERS_DIRECTORY: Final = 0o700
_NUMBERS: Final = ".numbers"
_LOCK: Final = ".lock"

Labels = tuple[str, ...]
Value = float | list[float]
"""A number; of a histogram its counts by bucket, and their sum."""
Values = list[tuple[Labels, Value]]
Numbers = dict[str, Values]
"""Values by metric and by labels."""


class Published(msgspec.Struct, frozen=True):
    """What one process counted. ``fresh`` is whether it still does."""

    process: str
    numbers: Numbers
    fresh: bool


class _File(msgspec.Struct, frozen=True, array_like=True):
    """A slot's file. ``left`` is whether its process ended as it should."""

    at_us: int
    left: bool
    numbers: Numbers


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_File).decode


class Shared:
    """The slot of this process. ``open`` takes one."""

    def __init__(self, directory: Path, process: str, lock: int, clock: Callable[[], int]) -> None:
        self.process = process
        self._directory = directory
        self._lock = lock
        self._clock = clock
        found = _read(directory / (process + _NUMBERS))
        self.inherited: Numbers = {} if found is None else _counted(found.numbers)

    @classmethod
    def open(cls, directory: Path, role: str, clock: Callable[[], int]) -> Shared:
        """Takes the first free slot of ``role``. Raises ``OSError`` where the directory can't be used."""
        directory.mkdir(_OWNERS_DIRECTORY, parents=True, exist_ok=True)
        with _alone(directory):
            if not any(_is_held(path) for path in directory.glob("*" + _LOCK)):
                for path in (*directory.glob("*" + _NUMBERS), *directory.glob("*.draft")):
                    path.unlink()
            number = 1
            while (lock := _take(directory / f"{role}-{number}{_LOCK}")) is None:
                number += 1
            return cls(directory, f"{role}-{number}", lock, clock)

    def publish(self, numbers: Numbers) -> None:
        """Writes what this process counted, and what those before it in the slot did. Raises ``OSError``."""
        self._write(numbers, left=False)

    def close(self, numbers: Numbers) -> None:
        """Writes for the last time and frees the slot. Raises ``OSError``."""
        try:
            self._write(numbers, left=True)
        finally:
            os.close(self._lock)

    def with_inherited(self, numbers: Numbers) -> Published:
        """What this process shows: what it counted, and what those before it in the slot did."""
        return Published(self.process, add(self.inherited, numbers), fresh=True)

    def others(self) -> list[Published]:
        """What the other processes of the node have published, those that ended included."""
        now_us = self._clock()
        found = []
        for path in sorted(self._directory.glob("*" + _NUMBERS)):
            process = path.name.removesuffix(_NUMBERS)
            file = None if process == self.process else _read(path)
            if file is not None:
                fresh = not file.left and abs(now_us - file.at_us) <= FRESH_US
                numbers = file.numbers if fresh else _counted(file.numbers)
                if not fresh and not file.left:
                    numbers["apishield_process_up"] = [((), 0)]
                found.append(Published(process, numbers, fresh))
        return found

    def _write(self, numbers: Numbers, *, left: bool) -> None:
        content = _encode(_File(self._clock(), left, add(self.inherited, numbers)))
        draft = self._directory / f"{self.process}.draft"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, _OWNER_ONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(self._directory / (self.process + _NUMBERS))  # at once, so that nobody reads half of it


def add(inherited: Numbers, numbers: Numbers) -> Numbers:
    """``numbers`` with what was counted before. Both hold each labels once a metric."""
    if not inherited:
        return numbers
    total = dict(numbers)
    for name, values in inherited.items():
        merged: dict[Labels, Value] = dict(total.get(name, ()))
        for labels, value in values:
            present = merged.get(labels)
            merged[labels] = value if present is None else plus(present, value)
        total[name] = list(merged.items())
    return total


def plus(one: Value, other: Value) -> Value:
    """The sum of two values of one metric. A histogram of other buckets (of another version) is not added."""
    if isinstance(one, list) and isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=True)] if len(one) == len(other) else one
    return one if isinstance(one, list) or isinstance(other, list) else one + other


def _counted(numbers: Numbers) -> Numbers:
    """What outlives a process: what it counted."""
    return {name: values for name, values in numbers.items() if _outlives(name)}


def _outlives(name: str) -> bool:
    definition = DEFINITIONS.get(name)
    return definition is not None and definition.kind is not Kind.GAUGE and definition.combine is Combine.SUM


def _read(path: Path) -> _File | None:
    try:
        return _decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None  # gone this moment, or of another version


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One process at a time takes a slot."""
    descriptor = _open_lock(directory / "lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    descriptor = _take(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def _take(path: Path) -> int | None:
    """The lock of a slot, as a file to keep open; ``None`` where a living process holds it."""
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _OWNER_ONLY)
