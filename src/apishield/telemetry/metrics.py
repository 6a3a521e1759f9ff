"""What one process counts. The hot path adds to integers; everything else happens when somebody scrapes.

``Metrics`` of a process that has joined its node (``join``) shows the whole node: see ``shared``.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from apishield import __version__
from apishield.redaction import escape, redact
from apishield.telemetry.catalogue import DEFINITIONS, Kind
from apishield.telemetry.exposition import expose
from apishield.telemetry.latency import Latency
from apishield.telemetry.process import read_process
from apishield.telemetry.shared import Labels, Numbers, Published, Shared, Values, add

MAX_LIMITS: Final = 200
"""How many names of limits a process shows by themselves: those that refuse first."""
OTHER: Final = "(other)"
METRICS_DIRECTORY: Final = "metrics"
"""Where, in the data directory, the processes of a node publish."""
_LONGEST_LABEL = 64
_LONGEST_NAME = 1000  # of what is looked through

Read = Callable[[], float | Mapping[Any, float]]
"""A number, or numbers by the values of the labels: a string, or a tuple of what can be shown."""

log = structlog.get_logger("apishield.metrics")


class LimitRefusals:
    """Refusals by limit; a name is chosen by whoever made the limit, so they are bounded in number and in length.

    First come, first shown: a name that has a series keeps it, so that no series ever goes back.
    """

    __slots__ = ("_cells", "_shown")

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], list[int]] = {}
        self._shown: dict[tuple[str, str], list[int]] = {}

    def add(self, limit: str, strategy: str) -> None:
        """Counts one refusal."""
        cell = self._cells.get((limit, strategy))
        if cell is None:
            cell = self._cell(limit, strategy)
        cell[0] += 1

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Refusals by name and algorithm."""
        return {shown: cell[0] for shown, cell in list(self._shown.items())}

    def _cell(self, limit: str, strategy: str) -> list[int]:
        if len(self._cells) >= MAX_LIMITS:
            return self._shown.setdefault((OTHER, strategy), [0])
        name = escape(redact(limit[:_LONGEST_NAME]))[:_LONGEST_LABEL]
        cell = self._cells[limit, strategy] = self._shown.setdefault((name, strategy), [0])
        return cell


class Metrics:
    """The numbers of one process. Attributes are added to in place; ``scrape`` is what Prometheus sees.

    ``checks`` counts decisions by code of the catalogue (``ok``, ``rate_limited`` …). ``requests`` counts answers of
    the control plane by (method, route template, status). What another part counts, or what is best read when asked for
    (an age), is named with ``counter`` and ``gauge``; every name stands in ``catalogue``.
    """

    def __init__(self) -> None:
        self.checks: defaultdict[str, int] = defaultdict(int)
        self.decision_seconds = Latency()
        self.limit_refusals = LimitRefusals()
        self.store_seconds = Latency()
        self.results: defaultdict[str, int] = defaultdict(int)
        self.result_seconds = Latency()
        self.requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self.request_seconds = Latency()
        self._reads: dict[str, list[Read]] = {}
        self._histograms: dict[str, Latency] = {}
        self._shared: Shared | None = None
        self._publishing = asyncio.Lock()
        self.gauge("apishield_build_info", lambda: {(__version__, platform.python_version()): 1})

    def show_data_plane(self) -> None:
        """Shows what a process that decides checks counts; a worker has none of it."""
        self.counter("apishield_checks_total", lambda: self.checks)
        self.counter("apishield_limit_refusals_total", lambda: self.limit_refusals.counts)
        self.counter("apishield_http_requests_total", lambda: self.requests)
        self.histogram("apishield_decision_seconds", self.decision_seconds)
        self.histogram("apishield_store_seconds", self.store_seconds)
        self.histogram("apishield_http_request_seconds", self.request_seconds)

    def show_answers(self) -> None:
        """Shows what protected APIs answered, in a process that takes events into the ledger: each answer once."""
        self.counter("apishield_results_total", lambda: self.results)
        self.histogram("apishield_result_seconds", self.result_seconds)

    def observe_check(self, seconds: float) -> None:
        """Adds one check that was no part of a batch."""
        self.decision_seconds.observe(seconds)

    def observe_answers(self, statuses: Mapping[int, int], latencies_us: Sequence[int]) -> None:
        """Adds what protected APIs answered to checks that were allowed: how often each status; latencies, where known."""
        for status, count in statuses.items():
            self.results[f"{status // 100}xx"] += count
        for latency_us in latencies_us:
            self.result_seconds.observe(latency_us / 1_000_000)

    def gauge(self, name: str, read: Read) -> None:
        """Shows what ``read`` returns at each scrape: a number, or numbers by the values of the metric's labels."""
        assert DEFINITIONS[name].kind is Kind.GAUGE, name
        self._reads[name] = [read]

    def counter(self, name: str, read: Read) -> None:
        """Shows a number (or numbers by labels) that something else counts and that only grows; several add up."""
        assert DEFINITIONS[name].kind is Kind.COUNTER, name
        self._reads.setdefault(name, []).append(read)

    def histogram(self, name: str, latency: Latency) -> None:
        """Shows what ``latency`` measures."""
        assert DEFINITIONS[name].kind is Kind.HISTOGRAM, name
        self._histograms[name] = latency

    # --- the node -----------------------------------------------------------------------------------------------------

    async def join(self, directory: Path, role: str, clock: Callable[[], int]) -> None:
        """Makes this process one of its node's: its numbers are published in ``directory``, and a scrape shows all of them.

        ``role`` is what the process does (``api``, ``ledger``). Where the directory can't be used, a scrape shows this
        process alone, and the log says so.
        """
        try:
            self._shared = await asyncio.to_thread(Shared.open, directory, role, clock)
        except OSError as error:
            log.warning("metrics.alone", reason=str(error), consequence="a scrape shows the process that answers it")

    async def publish(self) -> None:
        """Writes down what this process counts, for whichever process is scraped next. Raises ``OSError``."""
        if self._shared is not None:
            await self._publish(self._shared)

    async def _publish(self, shared: Shared) -> Numbers:
        async with self._publishing:  # an older reading must not be written after a newer one
            numbers = self.numbers()
            await asyncio.to_thread(shared.publish, numbers)
            return numbers

    async def leave(self) -> None:
        """Publishes for the last time: what was counted stays, and nobody misses this process."""
        if self._shared is not None:
            shared, self._shared = self._shared, None
            async with self._publishing:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(shared.close, self.numbers())

    async def scrape(self) -> tuple[bytes, str]:
        """The numbers of the node in the text format of Prometheus, and its media type.

        What is shown of this process was published before: no counter goes back when it is killed right afterwards.
        """
        shared = self._shared
        if shared is None:
            return self.render()
        try:
            numbers = await self._publish(shared)
        except OSError as error:
            log.warning("metrics.not_published", reason=str(error))
            numbers = self.numbers()
        own = shared.with_inherited(numbers)
        return await asyncio.to_thread(lambda: expose([own, *shared.others()])), CONTENT_TYPE_LATEST

    def render(self) -> tuple[bytes, str]:
        """The numbers of this process alone."""
        return expose([Published("here", self.numbers(), fresh=True)]), CONTENT_TYPE_LATEST

    def numbers(self) -> Numbers:
        """All present values, by metric and labels."""
        found: Numbers = {
            name: [((), [*latency.counts, latency.sum_seconds])] for name, latency in self._histograms.items()
        }
        for name, reads in self._reads.items():
            for read in reads:
                found = add(found, {name: _values(read())})
        for name, value in read_process().items():
            found[name] = [((), value)]
        found["apishield_process_up"] = [((), 1)]
        return found


def _values(read: float | Mapping[Any, float]) -> Values:
    if isinstance(read, Mapping):
        return [(_labels(labels), float(value)) for labels, value in list(read.items())]
    return [((), float(read))]


def _labels(labels: str | tuple[object, ...]) -> Labels:
    return (labels,) if isinstance(labels, str) else tuple(map(str, labels))
