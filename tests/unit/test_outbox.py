"""Nobody is told of a decision before it is written down, and a turn writes once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from apishield.api.dataplane.answers import Answer, Question
from apishield.api.dataplane.outbox import Outbox
from apishield.core.decided import Decided
from apishield.later import Later


class Client:
    """Notes in ``seen`` that its answer has gone out."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def deliver(self, answer: Answer) -> None:
        self.seen.append(f"{self.name} is told {answer.body.decode()}")


async def test_answers_of_a_turn_go_out_after_one_writing_down() -> None:
    seen: list[str] = []

    def write_down() -> bool:
        seen.append("written down")
        return True

    outbox = Outbox(write_down)
    outbox.put(Client("a", seen), Answer(200, [], b"1"))
    outbox.put(Client("b", seen), Answer(200, [], b"2"))
    assert seen == []
    await asyncio.sleep(0)
    assert seen == ["written down", "a is told 1", "b is told 2"]
    outbox.put(Client("c", seen), Answer(200, [], b"3"))
    await asyncio.sleep(0)
    assert seen[3:] == ["written down", "c is told 3"]


async def test_what_could_not_be_written_down_is_not_told_as_if_it_were() -> None:
    seen: list[str] = []
    outbox = Outbox(lambda: False)
    outbox.put(Client("a report", seen), Answer(202, [], b"taken", lambda: Answer(507, [], b"no room")))
    outbox.put(Client("a check", seen), Answer(200, [], b"allowed"))
    await asyncio.sleep(0)
    assert seen == ["a report is told no room", "a check is told allowed"]


class Check(Question):
    """A question that is answered by its own words."""

    def __init__(self, words: str) -> None:
        self.words = words

    def answer(self, decided: Decided) -> Answer:
        return Answer(200, [], self.words.encode())

    def failure(self, error: Exception) -> Answer:
        return Answer(500, [], self.words.encode())


async def test_what_was_asked_in_a_turn_is_answered_together_and_then_written_down() -> None:
    seen: list[str] = []
    late: Later[Answer] = Later()

    def write_down() -> bool:
        seen.append("written down")
        return True

    def answer_all(questions: Sequence[Question]) -> list[Answer | Later[Answer]]:
        words = [question.words for question in questions if isinstance(question, Check)]
        seen.append(f"asked {' '.join(words)}")
        return [late if word == "late" else Answer(200, [], word.encode()) for word in words]

    outbox = Outbox(write_down, answer_all)
    outbox.ask(Client("a", seen), Check("1"))
    outbox.ask(Client("b", seen), Check("late"))
    outbox.put(Client("c", seen), Answer(200, [], b"0"))
    assert seen == []
    await asyncio.sleep(0)
    assert seen == ["asked 1 late", "written down", "c is told 0", "a is told 1"]
    late.resolve(Answer(200, [], b"2"))
    await asyncio.sleep(0)
    assert seen[4:] == ["written down", "b is told 2"]
