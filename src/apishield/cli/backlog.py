"""What was answered and is not in the ledger yet, as far as can be told from here: in Kafka, and in this machine's spools."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import msgspec

from apishield.bootstrap import SPOOL_DIRECTORY
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


async def backlog(database: Database, settings: Settings) -> Backlog:
    """Looks at positions first, and at the ends after that: what comes meanwhile waits, too."""
    async with database.read() as tx:
        positions = {stream: position for stream, position, _ in await Positions(tx.connection).all()}
        remembered = await tx.meta.get(f"kafka:{settings.kafka_topic}") if settings.kafka_bootstrap_servers else None
    messages: dict[int, int] | None = {}
    if remembered is not None:
        messages = await asyncio.to_thread(_messages, settings, remembered, positions)
    return Backlog(messages, await asyncio.to_thread(_spool_bytes, settings.data_dir / SPOOL_DIRECTORY, positions))


def _messages(settings: Settings, remembered: str, positions: dict[str, int]) -> dict[int, int] | None:
    try:
        from apishield.stores.kafka.inspection import KafkaUnreachable, ends  # noqa: PLC0415  an extra
        from apishield.stores.kafka.topics import Agreement, stream_of  # noqa: PLC0415
    except (MissingExtra, ModuleNotFoundError):
        return None
    try:
        found = ends(settings, msgspec.json.decode(remembered, type=Agreement).partitions)
    except KafkaUnreachable:
        return None
    topic = settings.kafka_topic
    return {number: max(0, end - positions.get(stream_of(topic, number), 0)) for number, end in found.items()}


def _spool_bytes(root: Path, positions: dict[str, int]) -> int:
    waiting = 0
    with contextlib.suppress(OSError):
        for spool in spools_in(root):
            with contextlib.suppress(FileNotFoundError):  # it was taken, and is gone
                waiting += _bytes_of(root, spool, positions.get(f"spool:{spool_name(spool)}", 0))
    return waiting


def _bytes_of(root: Path, spool: int, taken: int) -> int:
    taken = max(taken, read_published(root, spool) or 0)
    directory = open_directory(root / spool_name(spool))
    try:
        segments = segments_in(directory)
    finally:
        os.close(directory)
    end, size = (segments[-1][0] + segments[-1][1], sum(size for _, size in segments)) if segments else (0, 0)
    beside = root / spool_name(spool) / overflow.NAME
    return max(0, min(size, end - taken)) + (beside.stat().st_size if beside.exists() else 0)
