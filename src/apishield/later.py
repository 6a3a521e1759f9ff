"""A value that will come, told to whoever waits in the very moment that it does.

An asyncio future tells through the event loop, and who awaits it is a task: two more turns of the loop and a task for every
check on its way to Redis, which is more work than deciding it. A ``Later`` calls who waits directly, in the turn in which the
answer was read. It can be awaited, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
Made = TypeVar("Made")

_running: set[asyncio.Future[Any]] = set()  # the event loop itself holds its tasks weakly


class Later(Generic[Value]):
    """What ``resolve`` or ``fail`` says first counts; what they say afterwards is ignored. For one thread."""

    __slots__ = ("_error", "_make", "_value", "_waiting", "is_done")

    def __init__(self, make: Callable[[Later[Any]], Value] | None = None) -> None:
        self.is_done = False
        self._value: Value
        self._error: Exception | None = None
        self._make = make
        self._waiting: Callable[[Later[Value]], None] | None = None

    @classmethod
    def of(cls, awaitable: Awaitable[Value]) -> Later[Value]:
        """What ``awaitable`` comes to; it runs also if nobody waits for it."""
        later: Later[Value] = awaitable if isinstance(awaitable, Later) else cls()
        if later is not awaitable:
            task = asyncio.ensure_future(awaitable)
            _running.add(task)
            task.add_done_callback(later._take)
        return later

    def resolve(self, value: Value) -> None:
        """The value is there."""
        if not self.is_done:
            self._value = value
            self._tell()

    def fail(self, error: Exception) -> None:
        """There will be no value."""
        if not self.is_done:
            self._error = error
            self._tell()

    def result(self) -> Value:
        """The value that is there. Raises what it failed with."""
        if self._error is not None:
            raise self._error
        return self._value

    def when_done(self, call: Callable[[Later[Value]], None]) -> None:
        """Calls ``call``, which must not raise, once this is done; at once if it is. Who asks first is told first."""
        if self.is_done:
            call(self)
        elif self._waiting is None:
            self._waiting = call
        else:
            before = self._waiting

            def both(done: Later[Value]) -> None:
                before(done)
                call(done)

            self._waiting = both

    def then(self, make: Callable[[Later[Value]], Made]) -> Later[Made]:
        """What ``make`` makes of this once it is done; what it raises, the new one fails with."""
        made: Later[Made] = Later(make)
        if self._waiting is None and not self.is_done:
            self._waiting = made._take_up
        else:
            self.when_done(made._take_up)
        return made

    def _take_up(self, done: Later[Any]) -> None:
        assert self._make is not None
        try:
            value = self._make(done)
        except Exception as error:  # noqa: BLE001  whoever waits gets it
            self.fail(error)
        else:
            self.resolve(value)

    def follow(self, awaitable: Awaitable[Value]) -> None:
        """Comes to what ``awaitable`` comes to."""
        Later.of(awaitable).when_done(self._copy)

    def __await__(self) -> Generator[Any, None, Value]:
        """The value; who is cancelled while waiting leaves it to come."""
        if not self.is_done:
            came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.when_done(lambda _: None if came.done() else came.set_result(None))
            yield from came
        return self.result()

    def _tell(self) -> None:
        self.is_done = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting(self)

    def _copy(self, done: Later[Value]) -> None:
        if done._error is None:
            self.resolve(done._value)
        else:
            self.fail(done._error)

    def _take(self, task: asyncio.Future[Value]) -> None:
        _running.discard(task)
        if task.cancelled():
            self.fail(asyncio.InvalidStateError("What should have made the value was cancelled."))
        elif (error := task.exception()) is None:
            self.resolve(task.result())
        else:
            self.fail(error if isinstance(error, Exception) else RuntimeError(str(error)))
