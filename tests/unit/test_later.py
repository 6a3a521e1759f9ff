"""A value that will come: who waits is told once, in the order of asking, and in the same turn of the loop."""

from __future__ import annotations

import asyncio

import pytest

from apishield.later import Later


def test_who_waits_is_told_in_order_without_a_turn_of_the_loop() -> None:
    later: Later[int] = Later()
    told: list[tuple[str, int]] = []
    later.when_done(lambda done: told.append(("first", done.result())))
    later.when_done(lambda done: told.append(("second", done.result())))
    later.resolve(7)
    later.when_done(lambda done: told.append(("late", done.result())))
    assert told == [("first", 7), ("second", 7), ("late", 7)]


def test_what_is_said_first_counts() -> None:
    later: Later[int] = Later()
    later.resolve(1)
    later.resolve(2)
    later.fail(ValueError("too late"))
    assert later.result() == 1


async def test_it_can_be_awaited_before_and_after_it_is_there() -> None:
    later: Later[int] = Later()
    asyncio.get_running_loop().call_soon(later.resolve, 3)
    assert [await later, await later] == [3, 3]


async def test_who_is_cancelled_while_waiting_leaves_it_to_come() -> None:
    later: Later[int] = Later()
    waiting = asyncio.ensure_future(later)
    await asyncio.sleep(0)
    waiting.cancel()
    later.resolve(3)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await later == 3


async def test_an_error_reaches_who_awaits_what_was_made_of_it() -> None:
    later: Later[int] = Later()
    made = later.then(lambda done: done.result() + 1)
    later.fail(ValueError("gone"))
    with pytest.raises(ValueError, match="gone"):
        await made


def test_what_making_raises_fails_only_what_is_made() -> None:
    later: Later[int] = Later()
    made = later.then(lambda done: 1 // done.result())
    later.resolve(0)
    assert later.result() == 0
    with pytest.raises(ZeroDivisionError):
        made.result()


def test_it_may_follow_another_one() -> None:
    later, other = Later[int](), Later[int]()
    later.follow(other)
    assert not later.is_done
    other.resolve(2)
    assert later.result() == 2


async def test_a_coroutine_runs_though_nobody_awaits_it() -> None:
    async def come() -> int:
        await asyncio.sleep(0)
        return 5

    told: list[int] = []
    Later.of(come()).when_done(lambda done: told.append(done.result()))
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == [5]
    later = Later[int]()
    assert Later.of(later) is later
