"""What a client of the service notes: what it asked, what it was answered, and what it never heard of again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

Units = dict[str, int]


@dataclass(slots=True)
class Told:
    """What was reported of a decision. ``sure``: an answer said that it was taken."""

    status: int
    latency_ms: float
    bytes: int
    sure: bool = False


@dataclass(slots=True)
class Question:
    """One check, and all that came of it. Its ``number`` is in its path, by which the ledger's decision is found again.

    ``decision_id`` is empty where the connection broke before an answer came: it may be in the ledger, or not.
    ``finals`` are what it may cost in the end; more than one where the answer to a settlement was lost.
    """

    number: int
    key_id: str
    method: str
    path: str
    endpoint: str
    country: str
    environment: str
    units: Units
    is_peek: bool = False
    holds: bool = False
    decision_id: str = ""
    code: str = ""
    told: Told | None = None
    finals: list[Units] = field(default_factory=list)
    is_settled: bool = False

    @property
    def is_answered(self) -> bool:
        """Whether somebody was told the decision."""
        return bool(self.decision_id)

    def answered(self, decision_id: str, code: str) -> None:
        """Notes the answer."""
        self.decision_id, self.code = decision_id, code
        self.finals = [self.units if code == "ok" else {}]

    def settles(self, final: Units) -> None:
        """A settlement is on its way: if no answer comes, either may be true."""
        self.finals.append(final)

    def was_settled(self, final: Units, *, taken: bool) -> None:
        """Notes the answer: what is taken is taken once, and nothing else then is."""
        if taken:
            self.finals = [final]
        else:
            self.finals = [one for one in self.finals if one is not final]


@dataclass(slots=True)
class Notes:
    """Everything that the clients of one tenant noted."""

    questions: list[Question] = field(default_factory=list)
    answers: int = 0
    broken: int = 0
    refused_connections: int = 0

    def answered(self) -> Iterator[Question]:
        """The questions that were answered."""
        return (question for question in self.questions if question.is_answered)

    def in_flight(self) -> int:
        """How many questions were sent and never answered."""
        return sum(not question.is_answered for question in self.questions)

    def __str__(self) -> str:
        return f"{len(self.questions)} questions, {self.in_flight()} of them in flight, {self.answers} answers"
