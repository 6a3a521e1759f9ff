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
