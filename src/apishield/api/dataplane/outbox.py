"""Answers of one turn of the event loop: they leave together, once what they tell of is written down.

So a decision that anybody was told of is never missing in the ledger, whatever kills the process; and a turn makes one write to
the spool, however many requests it answers. Checks that were asked in the turn are decided then, step by step for all of them:
nobody waits longer for that, and together they take less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from apishield.api.dataplane.answers import Answer, Question
from apishield.later import Later

AnswerAll = Callable[[Sequence[Question]], Sequence[Answer | Later[Answer]]]


class Receiver(Protocol):
    """Who waits for an answer, such as a request on a connection."""

    def deliver(self, answer: Answer) -> None:
        """Sends the answer on its way. Must not raise."""
        ...


class Outbox:
    """Holds answers until the end of the turn.

    ``write_down`` makes durable what they tell of, and returns whether it could; ``answer_all`` answers questions, in order.
    Neither raises.
    """

    __slots__ = ("_answer_all", "_asked", "_askers", "_loop", "_waiting", "_write_down")

    def __init__(self, write_down: Callable[[], bool], answer_all: AnswerAll = lambda _questions: ()) -> None:
        self._write_down = write_down
        self._answer_all = answer_all
        self._waiting: list[tuple[Receiver, Answer]] = []
        self._asked: list[Question] = []
        self._askers: list[Receiver] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, receiver: Receiver, answer: Answer) -> None:
        """Delivers ``answer`` to ``receiver`` at the end of this turn."""
        if not self._waiting and not self._asked:
            self._begin()
        self._waiting.append((receiver, answer))

    def ask(self, receiver: Receiver, question: Question) -> None:
        """Has ``question`` decided at the end of this turn, and delivers the answer to ``receiver`` as soon as it is there."""
        if not self._waiting and not self._asked:
            self._begin()
        self._asked.append(question)
        self._askers.append(receiver)

    def _begin(self) -> None:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        loop.call_soon(self._send)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._asked:
            askers, self._askers = self._askers, []
            asked, self._asked = self._asked, []
            for receiver, answer in zip(askers, self._answer_all(asked), strict=True):
                if isinstance(answer, Answer):
                    waiting.append((receiver, answer))
                else:
                    answer.then(partial(self._came, receiver))
        if self._write_down():
            for receiver, answer in waiting:
                receiver.deliver(answer)
            return
        for receiver, answer in waiting:
            receiver.deliver(answer.unwritten())

    def _came(self, receiver: Receiver, done: Later[Answer]) -> None:
        self.put(receiver, done.result())
