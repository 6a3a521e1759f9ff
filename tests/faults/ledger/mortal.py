"""A process that can be killed between any two of its steps, in the test's own: exactly, and again and again.

Every step of ``write → answer → drain → commit → forget`` that may be the last one calls ``Steps.take``. The one that is chosen
raises ``Killed``, and so does each that comes after it: a dead process takes no more steps, also none of cleaning up.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import pytest

from apishield.services.ledger import LedgerService
from apishield.stores.spool import SpoolReader, SpoolWriter
from apishield.stores.sql.ledger.positions import Positions
from apishield.stores.sql.ledger.taken import TakenBits


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """Counts steps. ``last`` is the one that is not taken any more; 0 means that nobody is killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int = 0) -> None:
        self.taken: list[str] = []
        self._last = last
        self._monkeypatch = monkeypatch
        self._put = SpoolWriter._put
        monkeypatch.setattr(SpoolWriter, "_put", self._torn_put())
        for owner, names in _STEPS.items():
            for name in names:
                monkeypatch.setattr(owner, name, self._around(getattr(owner, name), f"{owner.__name__}.{name}"))

    @property
    def is_dead(self) -> bool:
        """Whether the process was killed."""
        return 0 < self._last <= len(self.taken)

    def take(self, name: str) -> None:
        """One step. Raises ``Killed`` where it is the chosen one, or comes after it."""
        if self.is_dead:
            raise Killed(name)
        self.taken.append(name)
        if self.is_dead:
            raise Killed(name)

    def undo(self) -> None:
        """From now on nobody is killed."""
        self._monkeypatch.undo()

    def _around(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """``call`` as a step of its own: the process may be killed before it and behind it."""
        if inspect.iscoroutinefunction(call):

            @functools.wraps(call)
            async def wrapped(*args: Any, **more: Any) -> Any:
                self.take(f"before {name}")
                outcome = await call(*args, **more)
                self.take(f"after {name}")
                return outcome
        else:

            @functools.wraps(call)
            def wrapped(*args: Any, **more: Any) -> Any:
                self.take(f"before {name}")
                outcome = call(*args, **more)
                self.take(f"after {name}")
                return outcome

        return wrapped

    def _torn_put(self) -> Callable[[SpoolWriter, bytearray], None]:
        """A write to the spool, in the midst of which the process may be killed."""

        def put(writer: SpoolWriter, data: bytearray) -> None:
            self.take("before the write")
            if self._last == len(self.taken) + 1:
                os.write(writer._file, data[: len(data) // 2])
            self.take("in the midst of the write")
            self._put(writer, data)
            self.take("after the write")

        return put


_STEPS: dict[type, tuple[str, ...]] = {
    SpoolReader: ("adopt", "read", "forget", "remove"),
    LedgerService: ("claim", "apply", "settle_pending", "_write", "_note"),  # ``_note`` comes right behind the commit
    Positions: ("advance",),
    TakenBits: ("write",),
}


def bury(writer: SpoolWriter) -> None:
    """What the kernel does for a process that is gone: its files are closed, and its lock is free."""
    writer._overflow.close()
    for descriptor in (writer._file, *writer._unsynced, writer._directory, writer._lock):
        os.close(descriptor)
