"""A value on its way: who handles it is called once, in the order of asking, and in the turn of the loop in which it came."""

from __future__ import annotations

import asyncio

import pytest

from apishield.later import Later


def test_steps_are_taken_in_order_without_a_turn_of_the_loop() -> None:
    later: Later[int] = Later()
    text = later.then(lambda done: done.result() + 1).then(lambda done: f"{done.result()}")
    assert not text.is_done
    later.resolve(7)
    assert text.result() == "8"
    assert text.then(lambda done: done.result() + "!").result() == "8!"


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


async def test_all_who_await_it_get_it() -> None:
    later: Later[int] = Later()
    waiting = [asyncio.ensure_future(later) for _ in range(3)]
    await asyncio.sleep(0)
    later.resolve(3)
    assert await asyncio.gather(*waiting) == [3, 3, 3]


async def test_who_is_cancelled_while_waiting_leaves_it_to_come() -> None:
    later: Later[int] = Later()
    waiting = asyncio.ensure_future(later)
    await asyncio.sleep(0)
    waiting.cancel()
    later.resolve(3)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await later == 3


async def test_an_error_reaches_who_awaits_through_all_steps_that_can_not_help() -> None:
    later: Later[int] = Later()
    made = later.then(lambda done: done.result() + 1)
    later.fail(ValueError("gone"))
    with pytest.raises(ValueError, match="gone"):
        await made


def test_a_step_may_know_another_value() -> None:
    def instead(done: Later[int]) -> int:
        with pytest.raises(ValueError, match="gone"):
            done.result()
        return 5

    later: Later[int] = Later()
    made = later.then(instead)
    later.fail(ValueError("gone"))
    assert made.result() == 5


def test_what_a_step_raises_it_fails_with() -> None:
    later: Later[int] = Later()
    later.resolve(0)
    with pytest.raises(ZeroDivisionError):
        later.then(lambda done: 1 // done.result()).result()


def test_a_step_may_take_its_time_and_what_is_said_meanwhile_is_ignored() -> None:
    later, other = Later[int](), Later[int]()

    def wait(_: Later[int]) -> int | Later[int]:
        return other

    made = later.then(wait).then(lambda done: done.result() * 10)
    later.resolve(1)
    assert later.is_settled
    assert not made.is_done
    later.fail(ValueError("too late"))
    other.resolve(2)
    assert made.result() == 20


async def test_a_coroutine_runs_though_nobody_awaits_it() -> None:
    async def come() -> int:
        await asyncio.sleep(0)
        return 5

    later = Later.of(come())
    for _ in range(5):
        await asyncio.sleep(0)
    assert later.is_done
    assert later.result() == 5
    assert Later.of(later) is later
