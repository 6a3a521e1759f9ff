"""What was answered and is not in the ledger yet, as far as can be told from here: in Kafka, and in this machine's spools.

Owns: how much waits now (``backlog``), and whether what was answered until a moment has arrived (``Pipeline``).
Does not own: what that says of a difference (``reconcile``), who takes it (``drain``, ``workers``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import msgspec

from apishield.errors import MissingExtra
from apishield.settings import Settings
from apishield.stores.kafka.published import read_published
from apishield.stores.spool import overflow
from apishield.stores.spool.files import open_directory, segments_in, spool_name, spools_in
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.positions import Positions


class Backlog(msgspec.Struct, frozen=True):
    """``messages`` wait in the partitions of Kafka's topic; ``None`` where Kafka is used and did not say. ``spool_bytes`` wait
    in the spools of this machine's data directory; those of other nodes are not known.
    """

    messages: dict[int, int] | None
    spool_bytes: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known to wait."""
        return self.messages is not None and not any(self.messages.values()) and not self.spool_bytes


class Written(msgspec.Struct):
    """Up to where each spool of this machine was written at a moment; once all of that is published, each stream of Kafka."""

    spools: dict[int, int]
    streams: dict[str, int] | None = None


class Pipeline:
    """What lies between the processes of this machine, whose spools are in ``root``, and the ledger."""

    def __init__(self, database: Database, settings: Settings, root: Path) -> None:
        self._database, self._settings, self._root = database, settings, root

    async def written(self) -> Written | None:
        """What is written now; ``None`` where it lies beside a spool, which was full, and has no position yet."""
        ends = await asyncio.to_thread(_ends_of_spools, self._root)
        return None if ends is None else Written(ends)

    async def has_arrived(self, written: Written) -> bool:
        """Whether the ledger has all of it. ``False`` also where Kafka does not say."""
        positions, remembered = await _known(self._database, self._settings)
        if written.streams is None:
            if not await asyncio.to_thread(_are_taken, self._root, written.spools, positions):
                return False
            written.streams = {}
            if remembered is not None:  # what was published by now lies before these ends
                ends = await asyncio.to_thread(_ends_of_streams, self._settings, remembered)
                written.streams = None if ends is None else {stream: end for _, stream, end in ends}
        if written.streams is None:
            return False
        return all(positions.get(stream, 0) >= end for stream, end in written.streams.items())


async def backlog(database: Database, settings: Settings, root: Path) -> Backlog:
    """What waits, in Kafka and in the spools in ``root``.

    Looks at positions first, and at the ends after that: what comes meanwhile waits, too.
    """
    positions, remembered = await _known(database, settings)
    messages: dict[int, int] | None = {}
    if remembered is not None:
        ends = await asyncio.to_thread(_ends_of_streams, settings, remembered)
        messages = None if ends is None else {n: max(0, end - positions.get(stream, 0)) for n, stream, end in ends}
    return Backlog(messages, await asyncio.to_thread(_spool_bytes, root, positions))


async def _known(database: Database, settings: Settings) -> tuple[dict[str, int], str | None]:
    """Up to where each stream is in the ledger, and what the database knows of Kafka's topic, where that is used."""
    async with database.read() as tx:
        positions = {stream: position for stream, position, _ in await Positions(tx.connection).all()}
        remembered = await tx.meta.get(f"kafka:{settings.kafka_topic}") if settings.kafka_bootstrap_servers else None
    return positions, remembered


def _ends_of_streams(settings: Settings, remembered: str) -> list[tuple[int, str, int]] | None:
    """Each partition of Kafka's topic, its stream's name, and its end; ``None`` where Kafka does not say."""
    try:
        from apishield.stores.kafka.inspection import KafkaUnreachable, ends  # noqa: PLC0415  an extra
        from apishield.stores.kafka.topics import Agreement, stream_of  # noqa: PLC0415
    except (MissingExtra, ModuleNotFoundError):
        return None
    try:
        found = ends(settings, msgspec.json.decode(remembered, type=Agreement).partitions)
    except KafkaUnreachable:
        return None
    return [(number, stream_of(settings.kafka_topic, number), end) for number, end in found.items()]


def _spool_bytes(root: Path, positions: dict[str, int]) -> int:
    waiting = 0
    with contextlib.suppress(OSError):
        for spool in spools_in(root):
            with contextlib.suppress(FileNotFoundError):  # it was taken, and is gone
                waiting += _bytes_of(root, spool, positions.get(f"spool:{spool_name(spool)}", 0))
    return waiting


def _bytes_of(root: Path, spool: int, taken: int) -> int:
    taken = max(taken, read_published(root, spool) or 0)
    end, size = _end_of(root, spool)
    beside = root / spool_name(spool) / overflow.NAME
    return max(0, min(size, end - taken)) + (beside.stat().st_size if beside.exists() else 0)


def _end_of(root: Path, spool: int) -> tuple[int, int]:
    """Where a spool ends, and how much of it lies there. Raises ``FileNotFoundError``."""
    directory = open_directory(root / spool_name(spool))
    try:
        segments = segments_in(directory)
    finally:
        os.close(directory)
    return (segments[-1][0] + segments[-1][1], sum(size for _, size in segments)) if segments else (0, 0)


def _ends_of_spools(root: Path) -> dict[int, int] | None:
    """Where each spool ends; ``None`` where something lies beside one, or they can't be looked at."""
    ends: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for spool in spools_in(root):
            with contextlib.suppress(FileNotFoundError):  # it was taken, and is gone
                ends[spool] = _end_of(root, spool)[0]
                if (root / spool_name(spool) / overflow.NAME).exists():
                    return None
        return ends
    return None


def _are_taken(root: Path, ends: dict[int, int], positions: dict[str, int]) -> bool:
    """Whether each spool was taken, or published, up to its end, or is gone because all of it was."""
    with contextlib.suppress(OSError):
        there = set(spools_in(root))
        return all(
            spool not in there
            or max(positions.get(f"spool:{spool_name(spool)}", 0), read_published(root, spool) or 0) >= end
            for spool, end in ends.items()
        )
    return False
