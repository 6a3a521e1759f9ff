"""Nobody is told of a decision before it is written down, and a turn writes once."""

from __future__ import annotations

import asyncio

from apishield.api.dataplane.answers import Answer
from apishield.api.dataplane.outbox import Outbox


class Client:
    """Notes in ``seen`` that its answer has gone out."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def deliver(self, answer: Answer) -> None:
        self.seen.append(f"{self.name} is told {answer.body.decode()}")


async def test_answers_of_a_turn_go_out_after_one_writing_down() -> None:
    seen: list[str] = []
    outbox = Outbox(lambda: seen.append("written down"))
    outbox.put(Client("a", seen), Answer(200, [], b"1"))
    outbox.put(Client("b", seen), Answer(200, [], b"2"))
    assert seen == []
    await asyncio.sleep(0)
    assert seen == ["written down", "a is told 1", "b is told 2"]
    outbox.put(Client("c", seen), Answer(200, [], b"3"))
    await asyncio.sleep(0)
    assert seen[3:] == ["written down", "c is told 3"]
