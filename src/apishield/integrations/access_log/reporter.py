"""Sends what a log tells to ``POST /v1/report``, in batches, and waits for a service that is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from apishield.client.clients import AsyncAPIShield
from apishield.client.errors import APIError, InvalidRequestError
from apishield.client.models import Report, ReportResult
from apishield.errors import APIShieldError
from apishield.integrations.access_log.sources import LineReader, Source

log = logging.getLogger("apishield")

BATCH = 1000  # the service takes no more at once
PERIOD_SECONDS = 1.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STOP_SECONDS = 10.0
LOG_SECONDS = 60.0
_AGAIN = "store_unavailable"


class LogReporter:
    """Reports what ``source`` gives, until told to stop. ``clock`` gives seconds that only grow."""

    def __init__(
        self,
        client: AsyncAPIShield,
        source: Source,
        reader: LineReader,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._source, self._reader, self._clock = client, source, reader, clock
        self.sent = 0
        self.duplicates = 0
        self.rejected: Counter[str] = Counter()
        self.unsent = 0
        self._said: Counter[str] = Counter()
        self._say_at = clock() + LOG_SECONDS
        self._away_said_at: float | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Reports until ``stopping`` is set and what there is by then was sent, for ``STOP_SECONDS`` at most."""
        give_up_at: float | None = None
        while True:
            reports = self._source.take(BATCH)
            if not await self._delivered(reports, stopping):
                return
            self._source.commit()
            self._say_troubles()
            if stopping.is_set():
                give_up_at = self._clock() + STOP_SECONDS if give_up_at is None else give_up_at
                if self._source.is_exhausted or self._clock() >= give_up_at:
                    return
            elif self._source.has_ended:
                return
            elif not self._source.is_behind:
                await _wait(stopping, PERIOD_SECONDS)

    def summary(self) -> str:
        """What was done, in one line."""
        skipped = self._reader.skipped.total()
        parts = [f"{self.sent} results reported"]
        parts += [f"{self.duplicates} of them known already"] if self.duplicates else []
        parts += [f"{count} rejected ({code})" for code, count in sorted(self.rejected.items())]
        parts += [f"{skipped} lines skipped"] if skipped else []
        parts += [f"{self._lost} lost"] if self._lost else []
        return ", ".join(parts)

    @property
    def _lost(self) -> int:
        return self._source.lost + self.unsent

    async def _delivered(self, reports: list[Report], stopping: asyncio.Event) -> bool:
        """Sends ``reports`` until they are taken; false where it has to stop before."""
        pause_seconds = FIRST_PAUSE_SECONDS
        while reports:
            was_stopping = stopping.is_set()
            try:
                reports = self._taken(reports, await self._client.report(reports))
                self._away_said_at = None
            except InvalidRequestError as error:
                self.rejected[error.code] += len(reports)
                log.error("APIShield can't use %d results: %s", len(reports), error)
                return True
            except APIShieldError as error:
                self._say_away(error)
                pause_seconds = max(pause_seconds, getattr(error, "retry_after_seconds", None) or 0)
            if reports:
                if was_stopping:  # this was the last try
                    self.unsent = len(reports)
                    return False
                await _wait(stopping, min(pause_seconds, LONGEST_PAUSE_SECONDS))
                pause_seconds *= 2
        return True

    def _taken(self, reports: list[Report], result: ReportResult) -> list[Report]:
        """Counts an answer; returns the reports that have to be sent again."""
        again: list[Report] = []
        for rejection in result.rejected:
            code, index = _read_rejection(rejection)
            if code == _AGAIN and index < len(reports):
                again.append(reports[index])
            else:
                self.rejected[code] += 1
        self.sent += result.accepted + result.duplicates
        self.duplicates += result.duplicates
        return again

    def _say_away(self, error: APIShieldError) -> None:
        now = self._clock()
        if self._away_said_at is None or now - self._away_said_at >= LOG_SECONDS:
            self._away_said_at = now
            mistake = isinstance(error, APIError) and error.status < 500
            log.log(logging.ERROR if mistake else logging.WARNING, "results wait, trying again: %s", error)

    def _say_troubles(self) -> None:
        """Once a minute: what was skipped, rejected or lost since."""
        now = self._clock()
        if now < self._say_at:
            return
        self._say_at = now + LOG_SECONDS
        troubles = Counter({f"lines skipped ({why})": count for why, count in self._reader.skipped.most_common(5)})
        troubles.update({f"results rejected ({code})": count for code, count in self.rejected.items()})
        troubles["results lost, as too many waited"] = self._source.lost
        for trouble, count in (troubles - self._said).items():
            log.warning("%d %s", count, trouble)
        self._said = troubles


def _read_rejection(rejection: Any) -> tuple[str, int]:
    try:
        return str(rejection["code"]), int(rejection["index"])
    except (KeyError, TypeError, ValueError):
        return "unknown", 0


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
