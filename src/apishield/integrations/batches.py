"""Checks that are waiting at the same moment travel together.

A request over HTTP costs the asking process half a millisecond; a busy API would spend itself on asking. So at most
``MAX_IN_FLIGHT`` requests are under way in a loop, and what comes meanwhile goes out as one batch as soon as one is back. A
lone check goes out at once. Each is decided by itself: a batch is a way to travel, not a unit of decision.

The service has the whole time-out to answer a batch, from the moment it leaves; only that says whether it is there. A check
that has waited too long because of those before it fails as busy, which says nothing about the service: else whoever sends
many requests at once would make the app take the service for gone. Callers known to be good go first, in batches of their
own, so that a flood of others does not hold them up.
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


class BusyError(APIShieldError):
    """A check was not answered in time because too many were waiting before it."""


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
        self._first: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._unanswered: deque[_Waiting] = deque()  # waiting or under way (or answered since), oldest first
        self._sending: dict[asyncio.Task[None], float] = {}  # and when the service is late with each
        self._scheduled = False
        self._shedding: asyncio.TimerHandle | None = None

    def ask(self, request: CheckRequest, *, first: bool = False) -> asyncio.Future[Decision]:
        """The decision, within the time-out; ``first`` lets it overtake. May be cancelled by who waits.

        Fails with ``BusyError`` where others took the time, with another ``APIShieldError`` where the service fails.
        """
        answer: asyncio.Future[Decision] = self._loop.create_future()
        waiting = _Waiting(request, answer, self._loop.time() + self._timeout_seconds)
        (self._first if first else self._others).append(waiting)
        self._unanswered.append(waiting)
        if not self._scheduled and len(self._sending) < MAX_IN_FLIGHT:
            self._scheduled = True
            self._loop.call_soon(self._depart)  # so that all that arrive in this turn of the loop go together
        if self._shedding is None:
            self._shedding = self._loop.call_at(waiting.deadline, self._shed)
        return answer

    def _depart(self) -> None:
        """Sends what arrived in this turn of the loop. The turn was the app's: it counts as waiting for nobody."""
        self._scheduled = False
        deadline = self._loop.time() + self._timeout_seconds
        for waiting in (*self._first, *self._others):
            waiting.deadline = deadline
        self._dispatch()

    def _dispatch(self) -> None:
        now = self._loop.time()
        while (queue := self._first or self._others) and len(self._sending) < MAX_IN_FLIGHT:
            batch: list[_Waiting] = []
            while queue and len(batch) < MAX_BATCH:
                waiting = queue.popleft()
                # Else its client has gone, or is about to be told that we are busy: nothing should be charged.
                if not waiting.answer.done() and waiting.deadline > now:
                    batch.append(waiting)
            if batch:
                late_at = now + self._timeout_seconds
                task = self._loop.create_task(self._send(batch, late_at), context=Context())
                self._sending[task] = late_at
                task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._dispatch()

    def _shed(self) -> None:
        """Fails the checks whose time is over; looks again when the next one's is."""
        now = self._loop.time()
        unanswered = self._unanswered
        if any(late_at <= now for late_at in self._sending.values()):
            # The service itself is late, or the app held up the loop: the end of that batch says what it was.
            self._shedding = self._loop.call_at(now + LATE_SECONDS, self._shed)
            return
        while unanswered and (unanswered[0].answer.done() or unanswered[0].deadline <= now):
            answer = unanswered.popleft().answer
            if not answer.done():
                answer.set_exception(BusyError(f"too many checks wait; this one did for {self._timeout_seconds:g} s"))
        self._shedding = self._loop.call_at(unanswered[0].deadline, self._shed) if unanswered else None

    async def _send(self, batch: Sequence[_Waiting], late_at: float) -> None:
        asking = self._loop.create_task(self._ask([waiting.request for waiting in batch]))
        try:
            await self._in_time(asking, late_at)
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
            decisions = (await self._client.send(calls.check_all(requests))).results
        except InvalidRequestError as error:  # a bad check spoils only itself, so this is about the batch
            raise ServiceUnavailableError(f"it can't use a batch: {error}", sent=True) from error
        if len(decisions) != len(requests):
            raise ServiceUnavailableError(f"{len(decisions)} answers to {len(requests)} checks", sent=True)
        return decisions

    def _fail(self, batch: Sequence[_Waiting], error: APIShieldError) -> None:
        # The service is there where it only can't use a check; else whoever waits behind would wait for the same failure.
        behind: Sequence[_Waiting] = ()
        if not isinstance(error, InvalidRequestError):
            self._failed(error)
            behind = (*self._first, *self._others)
            self._first.clear()
            self._others.clear()
        for waiting in (*batch, *behind):
            if not waiting.answer.done():
                waiting.answer.set_exception(error)


def _forget(asking: asyncio.Task[list[Decision]]) -> None:
    """Takes note of an answer that comes too late, so that asyncio does not complain that nobody did."""
    if not asking.cancelled():
        asking.exception()
