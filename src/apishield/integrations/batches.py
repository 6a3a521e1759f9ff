"""Checks that are waiting at the same moment travel together.

A request over HTTP costs the asking process half a millisecond; a busy API would spend itself on asking. So at most
``MAX_IN_FLIGHT`` requests are under way in a loop, and what comes meanwhile goes out as one batch as soon as one is back. A
lone check goes out at once. Each is decided by itself: a batch is a way to travel, not a unit of decision.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context

from apishield.client import calls
from apishield.client.clients import AsyncAPIShield
from apishield.client.errors import InvalidRequestError, ServiceUnavailableError
from apishield.client.models import CheckRequest
from apishield.core.decision import Decision
from apishield.errors import APIShieldError

MAX_IN_FLIGHT = 4
MAX_BATCH = 64
LATE_SECONDS = 0.02  # a loop that wakes so much too late was held up
GRACE_SECONDS = 0.1


class _Waiting:
    """A check whose request is not answered yet."""

    __slots__ = ("answer", "deadline", "request")

    def __init__(self, request: CheckRequest, answer: asyncio.Future[Decision], deadline: float) -> None:
        self.request, self.answer, self.deadline = request, answer, deadline


class CheckBatches:
    """The checks of one event loop. A failure is told to ``failed``, an answer to ``answered``, before anyone wakes."""

    def __init__(
        self,
        client: AsyncAPIShield,
        timeout_seconds: float,
        *,
        failed: Callable[[APIShieldError], None],
        answered: Callable[[], None],
    ) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._failed, self._answered = failed, answered
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def ask(self, request: CheckRequest) -> asyncio.Future[Decision]:
        """The decision, within the time-out. Fails with an ``APIShieldError``; may be cancelled by who waits."""
        answer: asyncio.Future[Decision] = self._loop.create_future()
        self._waiting.append(_Waiting(request, answer, self._loop.time() + self._timeout_seconds))
        if not self._scheduled and len(self._sending) < MAX_IN_FLIGHT:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)  # so that all that arrive in this turn of the loop go together
        return answer

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._sending) < MAX_IN_FLIGHT:
            batch: list[_Waiting] = []
            while self._waiting and len(batch) < MAX_BATCH:
                waiting = self._waiting.popleft()
                if not waiting.answer.done():  # else its client has gone, and nothing should be charged
                    batch.append(waiting)
            if batch:
                task = self._loop.create_task(self._send(batch), context=Context())
                self._sending.add(task)
                task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._dispatch()

    async def _send(self, batch: Sequence[_Waiting]) -> None:
        asking = self._loop.create_task(self._ask([waiting.request for waiting in batch]))
        try:
            await self._in_time(asking, batch[0].deadline)
            decisions = asking.result()
        except TimeoutError:
            self._fail(batch, ServiceUnavailableError(f"no answer within {self._timeout_seconds:g} s", sent=True))
        except APIShieldError as error:
            self._fail(batch, error)
        except Exception as error:  # noqa: BLE001  whatever goes wrong in asking must not take the app down
            self._fail(batch, ServiceUnavailableError(f"{type(error).__name__}: {error}", sent=True))
        except BaseException:  # the loop is closing
            for waiting in batch:
                waiting.answer.cancel()
            raise
        else:
            self._answered()
            for waiting, decision in zip(batch, decisions, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(decision)
        finally:
            asking.cancel()

    async def _in_time(self, asking: asyncio.Task[list[Decision]], deadline: float) -> None:
        """Waits for the answer until ``deadline``; raises ``TimeoutError``.

        Where the app itself held up the loop (a handler that blocks), the answer may lie there unread: it gets a moment
        more, since a slow app is no failure of the service.
        """
        await asyncio.wait({asking}, timeout=deadline - self._loop.time())
        if not asking.done() and self._loop.time() - deadline > LATE_SECONDS:
            await asyncio.wait({asking}, timeout=GRACE_SECONDS)
        if not asking.done():
            asking.add_done_callback(_forget)
            raise TimeoutError

    async def _ask(self, requests: list[CheckRequest]) -> list[Decision]:
        if len(requests) == 1:
            return [await self._client.send(calls.check_one(requests[0]))]
        try:
            decisions = (await self._client.send(calls.check_batch(requests))).results
        except InvalidRequestError as error:  # a bad check spoils only itself, so this is about the batch
            raise ServiceUnavailableError(f"it can't use a batch: {error}", sent=True) from error
        if len(decisions) != len(requests):
            raise ServiceUnavailableError(f"{len(decisions)} answers to {len(requests)} checks", sent=True)
        return decisions

    def _fail(self, batch: Sequence[_Waiting], error: APIShieldError) -> None:
        # The service is there where it only can't use a check; else whoever waits behind would wait for the same failure.
        behind = [] if isinstance(error, InvalidRequestError) else list(self._waiting)
        if not isinstance(error, InvalidRequestError):
            self._failed(error)
            self._waiting.clear()
        for waiting in (*batch, *behind):
            if not waiting.answer.done():
                waiting.answer.set_exception(error)


def _forget(asking: asyncio.Task[list[Decision]]) -> None:
    """Takes note of an answer that comes too late, so that asyncio does not complain that nobody did."""
    if not asking.cancelled():
        asking.exception()
