"""Answers of one turn of the event loop: they leave together, once what they tell of is written down.

So a decision that anybody was told of is never missing in the ledger, whatever kills the process; and a turn makes one write to
the spool, however many requests it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from apishield.api.dataplane.answers import Answer


class Receiver(Protocol):
    """Who waits for an answer, such as a request on a connection."""

    def deliver(self, answer: Answer) -> None:
        """Sends the answer on its way. Must not raise."""
        ...


class Outbox:
    """Holds answers until the end of the turn.

    ``write_down`` makes durable what they tell of, and never raises; it returns whether it could.
    """

    __slots__ = ("_loop", "_waiting", "_write_down")

    def __init__(self, write_down: Callable[[], bool]) -> None:
        self._write_down = write_down
        self._waiting: list[tuple[Receiver, Answer]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, receiver: Receiver, answer: Answer) -> None:
        """Delivers ``answer`` to ``receiver`` at the end of this turn."""
        waiting = self._waiting
        waiting.append((receiver, answer))
        if len(waiting) == 1:
            loop = self._loop
            if loop is None:
                loop = self._loop = asyncio.get_running_loop()
            loop.call_soon(self._send)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._write_down():
            for receiver, answer in waiting:
                receiver.deliver(answer)
            return
        for receiver, answer in waiting:
            receiver.deliver(answer.unwritten())
