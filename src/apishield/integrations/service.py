"""Decisions by the service: asked within a time-out, or made at once by ``on_error`` while it can't be reached.

``on_error`` speaks for limits, not for who may call: while nobody can be asked, ``allow`` lets callers through unchecked who
need no verification, or whose key was verified a while ago (``seen_keys``). All others are refused.

Owns: connections, the breaker, batches of checks and of reports, one set of them for each event loop. Does not own: who is
calling (``callers``), what a refusal looks like (``answers``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any

from apishield.client import calls
from apishield.client.clients import AsyncAPIShield
from apishield.client.errors import APIError, InvalidRequestError
from apishield.client.models import CheckRequest, Cost, Report
from apishield.client.wire import checked_url
from apishield.core.decision import Decision
from apishield.core.key_manager.scopes import default_scope, satisfies
from apishield.errors import APIShieldError
from apishield.integrations.answers import busy, seen_before, unusable, unverified
from apishield.integrations.availability import Availability, OnError
from apishield.integrations.batches import BusyError, CheckBatches
from apishield.integrations.callers import Incoming
from apishield.integrations.reports import BATCH, ReportQueue
from apishield.integrations.seen_keys import SeenKeys

log = logging.getLogger("apishield")

FLUSH_SECONDS = 1.0
REPORT_TIMEOUT_SECONDS = 2.0
BUSY_LOG_SECONDS = 10.0


class ServiceGuard:
    """Asks the service at ``url`` with the service key ``api_key``."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout_seconds: float,
        on_error: OnError,
        require_key: bool,
        scopes: Sequence[str] | Callable[[Any], Sequence[str] | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = checked_url(url)
        self.reports = ReportQueue()
        self.availability = Availability(
            f"APIShield at {self.url}",
            on_error,
            clock,
            allowing="allowed unchecked where they need no key or have one verified lately, else refused",
        )
        self.seen = SeenKeys(clock)
        self._allows_unchecked = on_error == "allow"
        self._clock = clock
        self._busy_logged_at = -BUSY_LOG_SECONDS
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds
        self._require_key = require_key or None
        self._scopes = scopes
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}

    def check(
        self, incoming: Incoming, request: object, cost: Cost | None, *, reserve: bool = False
    ) -> Awaitable[Decision]:
        """Asks about a request (protocol ``Guard``)."""
        scopes = self._scopes(request) if callable(self._scopes) else self._scopes
        question = CheckRequest(
            api_key=incoming.api_key,
            ip=incoming.ip,
            method=incoming.method,
            path=incoming.path,
            user_agent=incoming.user_agent,
            cost=cost if cost is None or isinstance(cost, int) else dict(cost),
            scopes=None if scopes is None else list(scopes),
            require_key=self._require_key,
            reserve=reserve,
        )
        return self._ask(question)

    async def _ask(self, question: CheckRequest) -> Decision:
        caller = None if question.api_key is None else self.seen.caller(question.api_key, question.ip)
        if caller is not None and (refused := self.seen.unknown(caller)) is not None:
            return refused
        link = self._link()
        if self.availability.is_gone:
            link.probe()
            return self._unchecked(question, caller)
        try:
            decision = await link.checks.ask(
                question, first=caller is not None and self.seen.verified(caller) is not None
            )
        except InvalidRequestError as error:
            # Not an outage, so on_error does not apply: else an odd request would be a way around the limits.
            log.error("APIShield can't use a check: %s", error)
            return unusable()
        except BusyError as error:
            # Nor is this: else many requests at once would be.
            self._say_busy(error)
            return busy()
        except APIShieldError:
            return self._unchecked(question, caller)
        if caller is not None:
            self.seen.note(caller, decision)
        return decision

    def _unchecked(self, question: CheckRequest, caller: bytes | None) -> Decision:
        """The decision while nobody can be asked."""
        if not self._allows_unchecked:
            return self.availability.fallback
        if caller is None:
            return unverified() if question.require_key or question.scopes else self.availability.fallback
        key = self.seen.verified(caller)
        needed = [default_scope(question.method or "")] if question.scopes is None else question.scopes
        if key is None or not all(satisfies(key.scopes, scope) for scope in needed):
            return unverified()
        return seen_before(key)

    def _say_busy(self, error: BusyError) -> None:
        now = self._clock()
        if now - self._busy_logged_at >= BUSY_LOG_SECONDS:
            self._busy_logged_at = now
            log.warning("APIShield at %s can't keep up; requests are refused with 503: %s", self.url, error)

    def report(self, report: Report) -> None:
        """Queues a report; it is sent behind, within a second."""
        self.reports.add(report)
        self._link().wake()

    async def close(self) -> None:
        """Sends what is queued and closes the connections of the running loop."""
        link = self._links.get(asyncio.get_running_loop())
        if link is not None:
            await link.close()

    def failed(self, error: APIShieldError) -> None:
        """Notes that the service did not answer, or refused to decide."""
        self.availability.failed(error, by_mistake=isinstance(error, APIError) and error.status < 500)

    def connect(self) -> AsyncAPIShield:
        """A client for the running loop."""
        return AsyncAPIShield(self.url, api_key=self._api_key, timeout_seconds=REPORT_TIMEOUT_SECONDS, retries=0)

    def forget(self, loop: asyncio.AbstractEventLoop) -> None:
        """Lets go of a loop that ends."""
        self._links.pop(loop, None)

    def _link(self) -> _Link:
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            for other in [other for other in self._links if other.is_closed()]:
                self.forget(other)
            link = self._links[loop] = _Link(self, loop, self._timeout_seconds)
        return link


class _Link:
    """What belongs to one event loop: the client, the checks under way, and the task that sends reports and cleans up."""

    def __init__(self, guard: ServiceGuard, loop: asyncio.AbstractEventLoop, timeout_seconds: float) -> None:
        self._guard, self._loop, self._timeout_seconds = guard, loop, timeout_seconds
        self._client = guard.connect()
        self.checks = CheckBatches(
            self._client, timeout_seconds, failed=guard.failed, answered=guard.availability.answered
        )
        self._reported, self._full = asyncio.Event(), asyncio.Event()
        # Of no request's context, since it outlives them all.
        self._keeper = loop.create_task(self._keep(), context=Context())

    def wake(self) -> None:
        """Says that a report was queued."""
        if not self._reported.is_set():
            self._reported.set()
        if len(self._guard.reports) >= BATCH:
            self._full.set()

    def probe(self) -> None:
        """Looks whether the service answers again, by a check that charges nobody."""
        self._guard.availability.probe(
            lambda: self._client.send(calls.check_one(CheckRequest(cost=0))), self._timeout_seconds
        )

    async def close(self) -> None:
        """Ends the keeper, which sends what is queued and closes the client."""
        self._keeper.cancel()
        await asyncio.wait([self._keeper])

    async def _keep(self) -> None:
        """Sends reports each second or when many wait. Also runs when the loop cancels its tasks at its end."""
        try:
            while True:
                await self._reported.wait()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FLUSH_SECONDS):
                        await self._full.wait()
                self._reported.clear()
                self._full.clear()
                self.probe()
                await self._flush()
                if len(self._guard.reports):
                    self._reported.set()  # could not be sent: again in a second
        finally:
            self._guard.forget(self._loop)
            await self._flush()
            await self._client.aclose()

    async def _flush(self) -> None:
        queue = self._guard.reports
        while len(queue) and not self._guard.availability.is_gone:
            reports = queue.take(BATCH)
            try:
                async with asyncio.timeout(REPORT_TIMEOUT_SECONDS):
                    await self._client.send(calls.report(reports))
            except InvalidRequestError as error:
                queue.dropped += len(reports)
                log.error("APIShield can't use %d reports: %s", len(reports), error)
            except (TimeoutError, APIShieldError, RuntimeError):
                # RuntimeError: the interpreter ends, and no host can be looked up any more.
                queue.put_back(reports)
                return
            except BaseException:
                queue.put_back(reports)
                raise
