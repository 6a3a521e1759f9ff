"""Answers that are remembered up to a number, and forgotten a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

Answer = TypeVar("Answer")


class Remembered(Generic[Answer]):
    """What ``find`` says of its arguments. Up to ``most`` answers are remembered, among them the half that was asked for last.

    They lie in two halves. When the younger one is full it takes the place of the older one, of which each answer that is
    new lets go of one. ``functools.lru_cache`` can only be emptied in one go, which takes 150 ms for 100,000.
    """

    __slots__ = ("_find", "_half", "_older", "_younger")

    def __init__(self, most: int, find: Callable[..., Answer]) -> None:
        self._find: Final = find
        self._half: Final = max(1, most // 2)
        self._younger: dict[tuple[Any, ...], Answer] = {}
        self._older: dict[tuple[Any, ...], Answer] = {}

    def __len__(self) -> int:
        """How many answers are remembered."""
        return len(self._younger) + len(self._older)

    def ask(self, *about: Any) -> Answer:
        """The answer about these arguments, which can be hashed."""
        try:
            return self._younger[about]
        except KeyError:
            pass
        older = self._older
        if about in older:
            answer = older.pop(about)
        else:
            answer = self._find(*about)
            if older:
                older.popitem()
        if len(self._younger) >= self._half:
            self._older, self._younger = self._younger, {}
        self._younger[about] = answer
        return answer

    def forget(self, at_most: int) -> bool:
        """Forgets some answers. Returns whether there are more."""
        for half in (self._older, self._younger):
            for _ in range(min(at_most, len(half))):
                half.popitem()
                at_most -= 1
        return bool(self._older or self._younger)
