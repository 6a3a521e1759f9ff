"""The files of one node: the SQLite database's secret, made at the first start, readable by its owner only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from apishield.errors import ConfigurationError

_SECRET = "secret"  # noqa: S105  a file's name
_OWNER_ONLY = 0o600


class DataDirectory:
    """``APISHIELD_DATA_DIR``. Nothing is written before ``prepare``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Makes the directory. Raises ``ConfigurationError`` where it can't be made or written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
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

    def write_private(self, name: str, content: str) -> Path:
        """Writes a new file that only its owner reads, whole or not at all. Raises ``FileExistsError`` where there is one."""
        path = self.path / name
        draft = self.path / f".{name}-{os.getpid()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # fails where the name is taken, unlike a rename
        finally:
            draft.unlink(missing_ok=True)
        return path
