"""What ``apishield doctor`` says of the events that wait on this machine's disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Literal, NamedTuple

from apishield.bootstrap import SPOOL_DIRECTORY
from apishield.settings import Settings
from apishield.stores.spool.files import bytes_in, open_directory, spool_name, spools_in, take_lock
from apishield.stores.spool.quarantine import QUARANTINE
from apishield.stores.spool.spools import DRAIN_LOCK, FULL


class SpoolState(NamedTuple):
    """How the spools of a node are; ``fix`` is what to do where they are not well."""

    status: Literal["ok", "warn", "fail"]
    detail: str
    fix: str | None = None


def look_at_spools(settings: Settings) -> SpoolState | None:
    """How the spools in the data directory are; ``None`` where there are none yet, or they can't be looked at."""
    root = settings.data_dir / SPOOL_DIRECTORY
    with contextlib.suppress(OSError):
        spools = spools_in(root)
        used = bytes_in(root)
        gone = sum(_is_orphan(root, spool) for spool in spools)
        drained = _is_drained(root)
        detail = f"{_megabytes(used)} of {_megabytes(settings.spool_bytes)} in {len(spools)} spools"
        detail += ", a worker drains them" if drained else ", no worker runs"
        if used > FULL * settings.spool_bytes:
            fix = "Mend what is downstream (database, Kafka), start `apishield worker`, or raise APISHIELD_SPOOL_BYTES."
            return SpoolState("warn", f"{detail}; details are being given up", fix)
        if not drained and len(spools) > gone:
            fix = "A service runs and nothing takes its events into the ledger: start `apishield worker`."
            return SpoolState("warn", detail, fix)
        if any((root / QUARANTINE).glob("*")):
            fix = f"Damaged bytes lie in {root / QUARANTINE}: check the disk, then delete them."
            return SpoolState("warn", f"{detail}; some could not be read", fix)
        if spools or drained:
            return SpoolState("ok", detail)
    return None


def _is_orphan(root: Path, spool: int) -> bool:
    directory = open_directory(root / spool_name(spool))
    try:
        lock = take_lock(directory)
        if lock is not None:
            os.close(lock)
        return lock is not None
    finally:
        os.close(directory)


def _is_drained(root: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), (root / DRAIN_LOCK).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"
