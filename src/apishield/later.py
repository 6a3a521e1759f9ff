"""A value on its way: whoever handles it next is called in the very moment in which it is there.

An asyncio future tells through the event loop, and who awaits it is a coroutine in a task: two more turns of the loop for every
check on its way to Redis. A ``Later`` is one object, however many hands it passes through: the store makes it, each layer above
adds what it makes of the value, and all of that runs in the turn in which the answer was read. It can be awaited, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
Made = TypeVar("Made")

_running: set[asyncio.Future[Any]] = set()  # the event loop itself holds its tasks weakly


class Later(Generic[Value]):
    """What ``resolve`` or ``fail`` says first counts; what they say afterwards is ignored. For one thread.

    ``is_settled`` is whether one of them has spoken, ``is_done`` whether all steps have been taken that were asked for.
    """

    __slots__ = ("_error", "_steps", "_value", "is_done", "is_settled")

    def __init__(self) -> None:
        self.is_done = self.is_settled = False
        self._steps: list[Callable[[Later[Any]], Any]] = []
        self._value: Any = None
        self._error: Exception | None = None

    @classmethod
    def of(cls, awaitable: Awaitable[Value]) -> Later[Value]:
        """What ``awaitable`` comes to; it runs also if nobody waits for it."""
        if isinstance(awaitable, Later):
            return awaitable
        later: Later[Value] = cls()
        task = asyncio.ensure_future(awaitable)
        _running.add(task)
        task.add_done_callback(later._take)
        return later

    @classmethod
    def failed(cls, error: Exception) -> Later[Value]:
        """No value, because of ``error``."""
        later: Later[Value] = cls()
        later.fail(error)
        return later

    def resolve(self, value: Value) -> None:
        """The value is there."""
        if not self.is_settled:
            self.is_settled = True
            self._value = value
            self._go_on()

    def fail(self, error: Exception) -> None:
        """There will be no value."""
        if not self.is_settled:
            self.is_settled = True
            self._error = error
            self._go_on()

    def result(self) -> Value:
        """The value that is there. Raises what it failed with."""
        if self._error is not None:
            raise self._error
        value: Value = self._value
        return value

    def then(self, step: Callable[[Later[Value]], Made | Later[Made]]) -> Later[Made]:
        """This same one, whose value will be what ``step`` returns, or has come later; what it raises, it fails with.

        ``step`` gets this one, to ask it for its ``result``. Who held on to it from before now gets the new value.
        """
        self._steps.append(step)
        if self.is_done:
            self.is_done = False
            self._go_on()
        return self  # type: ignore[return-value]  # by now; cast() would make its generic type anew, at every step

    def __await__(self) -> Generator[Any, None, Value]:
        """The value; who is cancelled while waiting leaves it to come."""
        if not self.is_done:
            came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def tell(done: Later[Value]) -> Value:
                if not came.done():
                    came.set_result(None)
                return done.result()

            self.then(tell)
            yield from came
        return self.result()

    def _go_on(self) -> None:
        steps = self._steps
        while steps:
            step = steps.pop(0)
            try:
                value = step(self)
            except Exception as error:  # noqa: BLE001  whoever asks for the result gets it
                self._error = error
            else:
                if isinstance(value, Later):
                    value.then(self._follow)
                    return
                self._value, self._error = value, None
        self.is_done = True

    def _follow(self, other: Later[Any]) -> None:
        self._value, self._error = other._value, other._error
        self._go_on()

    def _take(self, task: asyncio.Future[Value]) -> None:
        _running.discard(task)
        if task.cancelled():
            self.fail(asyncio.InvalidStateError("What should have made the value was cancelled."))
        elif (error := task.exception()) is None:
            self.resolve(task.result())
        else:
            self.fail(error if isinstance(error, Exception) else RuntimeError(str(error)))
