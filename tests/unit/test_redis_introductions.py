"""A server that is still loading says nothing of itself: it is asked again, and what was known before is not forgotten."""

from __future__ import annotations

from apishield.stores.redis.link import _Introduction
from apishield.stores.redis.runs import Runs


def info(run_id: str) -> bytes:
    return f"run_id:{run_id}\r\nuptime_in_seconds:0\r\nmaxmemory_policy:noeviction\r\n".encode()


def test_a_restart_is_noticed_though_the_first_answer_was_that_it_is_loading() -> None:
    forgot: list[bool] = []
    asked_again: list[float] = []
    runs = Runs(lambda: forgot.append(True))
    _Introduction(runs, 0.0, asked_again.append).answered(info("before"))
    _Introduction(runs, 3.0, asked_again.append).answered(Exception("LOADING Redis is loading the dataset in memory"))
    assert (asked_again, forgot, runs.facts.run_id) == ([3.0], [], "before")
    _Introduction(runs, 3.0, asked_again.append).answered(info("after"))
    assert (asked_again, forgot) == ([3.0], [True])


def test_a_server_that_may_not_say_is_not_asked_for_ever() -> None:
    asked_again: list[float] = []
    _Introduction(Runs(lambda: None), 0.0, asked_again.append).answered(
        Exception("NOPERM no permissions to run 'info'")
    )
    assert asked_again == []
