"""Answers are remembered up to a number, the latest of them surely, and can be forgotten bit by bit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apishield.core.remembered import Remembered


@given(asked=st.lists(st.integers(0, 30), max_size=200), most=st.integers(1, 20))
def test_answers_are_right_bounded_and_not_found_twice_for_who_comes_back_soon(asked: list[int], most: int) -> None:
    found: list[int] = []

    def find(number: int) -> int:
        found.append(number)
        return number * number

    remembered = Remembered(most, find)
    for place, number in enumerate(asked):
        before = len(found)
        assert remembered.ask(number) == number * number
        assert len(remembered) <= max(2, most)
        if number in asked[max(0, place - 1) : place]:
            assert len(found) == before


def test_all_is_forgotten_a_few_at_a_time() -> None:
    remembered = Remembered(10, lambda number: number)
    for number in range(8):
        remembered.ask(number)
    held = len(remembered)
    assert remembered.forget(3)
    assert len(remembered) == held - 3
    while remembered.forget(3):
        pass
    assert len(remembered) == 0
