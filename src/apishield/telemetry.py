"""What the service says about itself: log lines and Prometheus metrics.

Logs are structlog's, for people on a terminal and as JSON lines elsewhere; lines of the standard library's loggers
(uvicorn, SQLAlchemy, Alembic) take the same way. Every value passes ``redaction``: no credential is written, and no
value can fake or hide a line.

Metrics are plain numbers in one explicit object. The data plane adds to integers; Prometheus' types are made when
somebody scrapes. Labels are bounded: codes of the catalogue, route templates, statuses; never a key or an address.
"""

from __future__ import annotations

import logging
import platform
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from apishield import __version__
from apishield.redaction import escape, redact

CONFIDENTIAL_FIELDS = frozenset(
    {"authorization", "proxy_authorization", "cookie", "api_key", "x_api_key", "secret", "token", "password", "pepper"}
)
_LINES_FIELDS = frozenset({"exception", "stack"})
# From a decision in memory to a store that hangs until its time-out; in seconds.
LATENCY_BUCKETS = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip


def configure_logging(
    level: str = "info", log_format: Literal["auto", "console", "json"] = "auto", stream: TextIO | None = None
) -> None:
    """Sends all log lines of this process to ``stream`` (standard error by default)."""
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _protect,
    ]
    console = log_format == "console" or (log_format == "auto" and terminal)
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal, pad_event_to=0, timestamp_key="time")
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False, sort_keys=False)
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_drop_color_message, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _put_first, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("alembic", "sqlalchemy", "asyncio", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        # uvicorn writes an access line wherever a handler would take it; ours are metrics and events.
        logger.propagate = name != "uvicorn.access"
        # Starting and stopping we say ourselves, and a warning for each malformed request would let strangers fill disks.
        logger.setLevel(root.level if root.level <= logging.DEBUG else logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _drop_color_message(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn says everything twice, once with ANSI codes
    return event


def _protect(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Takes credentials and control characters out of every value of a log line."""
    for name, value in list(event.items()):
        if name.startswith("_"):
            continue  # structlog's own
        if name.lower().replace("-", "_") in CONFIDENTIAL_FIELDS:
            event[name] = "***"
        elif name in _LINES_FIELDS:
            event[name] = "\n".join(escape(redact(line)) for line in str(value).splitlines())
        else:
            event[name] = _safe(value)
    return event


def _put_first(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Time, level and event first, so that JSON lines can be read, too."""
    return {name: event[name] for name in ("time", "level", "event") if name in event} | dict(event)


def _safe(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {
            _safe(str(name)): "***" if str(name).lower().replace("-", "_") in CONFIDENTIAL_FIELDS else _safe(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(item) for item in value]
    return escape(redact(value if isinstance(value, str) else str(value)))


class Latency:
    """A histogram of durations: one comparison chain and two additions a measurement."""

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Adds one measurement."""
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.sum_seconds += seconds

    def observe_many(self, seconds: float, count: int) -> None:
        """Adds ``count`` measurements of the same duration (a batch that was decided together)."""
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += count
        self.sum_seconds += seconds * count

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        total, found = 0, []
        for bound, count in zip((*map(str, LATENCY_BUCKETS), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Metrics(Collector):
    """The numbers of one process. Attributes are added to in place; ``render`` is what a scrape sees.

    ``checks`` counts decisions by code of the catalogue (``ok``, ``rate_limited`` …). ``requests`` counts answers of
    the control plane by (method, route template, status). What is best read when asked for (an age) is a ``gauge``.
    """

    def __init__(self) -> None:
        self.checks: defaultdict[str, int] = defaultdict(int)
        self.decision_seconds = Latency()
        self.store_seconds = Latency()
        self.results: defaultdict[str, int] = defaultdict(int)
        self.result_seconds = Latency()
        self.requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self.request_seconds = Latency()
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._counters: dict[str, tuple[str, Callable[[], float]]] = {}
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def observe_check(self, seconds: float) -> None:
        """Adds one check that was decided alone."""
        self.decision_seconds.observe(seconds)

    def observe_result(self, status: int, latency_seconds: float) -> None:
        """Adds what a protected API answered to a check that was allowed, as it was reported."""
        self.results[f"{status // 100}xx"] += 1
        self.result_seconds.observe(latency_seconds)

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Shows what ``read`` returns at each scrape, e.g. ``apishield_snapshot_age_seconds``."""
        self._gauges[name] = (description, read)

    def counter(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Shows a number that something else counts and that only grows."""
        self._counters[name] = (description, read)

    def render(self) -> tuple[bytes, str]:
        """The text format of Prometheus, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are checked where they are made, and a scrape should not run twice."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Makes Prometheus' types of the present numbers."""
        build = GaugeMetricFamily("apishield_build", "Version of this node; always 1.", labels=["version", "python"])
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        checks = CounterMetricFamily("apishield_checks", "Checks decided, by code of the decision.", labels=["code"])
        for code, count in list(self.checks.items()):
            checks.add_metric([code], count)
        yield checks
        yield _histogram("apishield_decision_seconds", "From a check's arrival to its decision.", self.decision_seconds)
        yield _histogram("apishield_store_seconds", "One trip to the counters' store.", self.store_seconds)
        requests = CounterMetricFamily(
            "apishield_http_requests", "Answers of the control plane.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in list(self.requests.items()):
            requests.add_metric([method, route, str(status)], count)
        yield requests
        yield _histogram("apishield_http_request_seconds", "Requests of the control plane.", self.request_seconds)
        results = CounterMetricFamily(
            "apishield_results", "Answers of protected APIs, as reported, by class of status.", labels=["status"]
        )
        for status_class, count in list(self.results.items()):
            results.add_metric([status_class], count)
        yield results
        yield _histogram("apishield_result_seconds", "Latency of protected APIs, as reported.", self.result_seconds)
        for name, (description, read) in self._gauges.items():
            yield GaugeMetricFamily(name, description, value=read())
        for name, (description, read) in self._counters.items():
            yield CounterMetricFamily(name, description, value=read())


def _histogram(name: str, description: str, latency: Latency) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, description, buckets=latency.buckets(), sum_value=latency.sum_seconds)
