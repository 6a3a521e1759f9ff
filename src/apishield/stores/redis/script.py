"""The Lua twins of the algorithms, as one script."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

import hiredis

PARTS: Final = (
    "shared",
    "fixed_window",
    "window_log",
    "sliding_window",
    "token_bucket",
    "concurrency",
    "quota",
    "decide",
)

SCRIPT: Final = "\n".join((files(__package__) / "lua" / f"{part}.lua").read_text("utf-8") for part in PARTS).encode()
SHA1: Final = sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()  # how Redis names it


def command(*parts: bytes | str | int) -> bytes:
    """A command as it goes over the wire."""
    pack: Any = hiredis.pack_command  # typed as if it took a tuple of one and returned anything
    packed: bytes = pack(parts)
    return packed
