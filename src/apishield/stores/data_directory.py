"""The files of one node, readable by its owner only; among them the SQLite database's secret, made at the first start."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets as system_random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from apishield.errors import ConfigurationError

_SECRET = "secret"  # noqa: S105  a file's name
_OWNER_ONLY = 0o600
_OWNERS_DIRECTORY = 0o700

_log = logging.getLogger(__name__)


class DataDirectory:
    """``APISHIELD_DATA_DIR``. Nothing is written before ``prepare``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Makes the directory, for its owner only. Raises ``ConfigurationError`` where it can't be made or written."""
        try:
            self.path.mkdir(_OWNERS_DIRECTORY, parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigurationError(
                f"APISHIELD_DATA_DIR is '{self.path}', which can't be written ({error.strerror}). "
                "Name a directory that this user may write, or mend its permissions."
            ) from None

    def secret(self, make: Callable[[], str]) -> str:
        """The master secret of this directory; ``make`` is asked for one at the first start."""
        path = self.path / _SECRET
        with contextlib.suppress(FileExistsError):
            self.write_private(_SECRET, make())
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigurationError(
                f"The secret at '{path}' can't be read ({error.strerror}). Start as the user who made it."
            ) from None

    def warn_of_open_secret(self) -> None:
        """Logs a warning where others than the owner may read the master secret, as after a careless copy."""
        path = self.path / _SECRET
        with contextlib.suppress(FileNotFoundError):
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                _log.warning("The master secret at %s is open to other users of this machine: chmod 600 it.", path)

    def write_private(self, name: str, content: str) -> Path:
        """Writes a new file that only its owner reads, whole or not at all. Raises ``FileExistsError`` where there is one."""
        path = self.path / name
        # No name that others could foresee, in a directory that may be theirs too, and no file that is there already.
        draft = self.path / f".{name}-{os.getpid()}-{system_random.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _OWNER_ONLY)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # fails where the name is taken, unlike a rename
        finally:
            draft.unlink(missing_ok=True)
        return path


def open_private(path: Path) -> TextIO:
    """Opens a file to be read and appended to, by its owner only; makes it where there is none. Follows no link."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, _OWNER_ONLY)
    return os.fdopen(descriptor, "a+", encoding="utf-8")
