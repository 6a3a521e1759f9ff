"""A stand-in for the module ``time`` in limiters that read the clock themselves."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any


class StoppedTime:
    """``time``, but it is always ``now_us``: put in place of a module's ``time`` before its limiter is made."""

    def __init__(self) -> None:
        self.now_us = 0

    def replace_in(self, *modules: ModuleType) -> None:
        """Makes ``modules``, which say ``import time``, go by this clock from now on."""
        for module in modules:
            module.time = self  # type: ignore[attr-defined]

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return self.now_us / 1_000_000

    def monotonic(self) -> float:
        """The same: it never goes backwards."""
        return self.now_us / 1_000_000

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
