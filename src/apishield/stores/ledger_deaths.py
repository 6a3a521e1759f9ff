"""How often a node's ledger process died in a row: noted in the data directory, as whoever asks lives in another process.

Owns: the note. Does not own: when it is written and when it is over (``cli.ledger_process``), who is told (``api.readiness``).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

_NAME: Final = "ledger-deaths"
_OWNER_ONLY: Final = 0o600


class LedgerDeaths(msgspec.Struct, frozen=True):
    """``times`` in a row, and the last ``exit_code`` (minus a signal's number); ``None`` where it could not be started."""

    times: int
    exit_code: int | None


_decode = msgspec.json.Decoder(LedgerDeaths).decode


def note_deaths(data_dir: Path, deaths: LedgerDeaths) -> None:
    """Replaces what was noted. A disk that is full keeps the older note: what matters then is told of the disk."""
    draft = data_dir / f".{_NAME}"
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(draft, flags, _OWNER_ONLY), "wb") as file:
            file.write(msgspec.json.encode(deaths))
        draft.replace(data_dir / _NAME)


def read_deaths(data_dir: Path) -> LedgerDeaths | None:
    """What was noted last; ``None`` where the process does not die."""
    try:
        return _decode((data_dir / _NAME).read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def forget_deaths(data_dir: Path) -> None:
    """The process runs, or is not wanted."""
    with contextlib.suppress(OSError):
        (data_dir / _NAME).unlink()
