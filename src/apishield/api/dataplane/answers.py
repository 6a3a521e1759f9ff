"""What the data plane says to one request, before any server has put it on a wire; and a question until it says so."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Awaitable, Callable

import msgspec

from apishield.core.decided import Decided
from apishield.services.asked import Asked


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole response. ``headers`` are without ``content-length``, which is the body's.

    ``otherwise`` is what is said in its place where what it tells of could not be written down. A check has none: it is
    decided, and counts in any case.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    otherwise: Callable[[], Answer] | None = None

    def unwritten(self) -> Answer:
        """What is said where the turn could not be written down."""
        return self if self.otherwise is None else self.otherwise()


class Question(metaclass=ABCMeta):
    """A check that is screened, and is decided at the end of the event loop's turn, with all others of it."""

    __slots__ = ("screened",)
    screened: Asked

    @abstractmethod
    def answer(self, decided: Decided) -> Answer:
        """What is said about the decision, in the form in which it was asked for."""

    @abstractmethod
    def failure(self, error: Exception) -> Answer:
        """What is said where the check could not be decided. Never raises."""


Answered = Answer | Question | Awaitable[Answer]
"""An answer, at once, at the end of this turn, or when it comes."""
