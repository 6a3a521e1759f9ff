"""Traces by OpenTelemetry: a span for each request of the control plane, and for each intake of the ledger.

Only where ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``) is set; that needs the extra ``otel``. Else nothing of the
SDK is loaded and nothing is wrapped. Checks make no spans: one costs more than a check does. Sampling, headers, names and
time-outs are OpenTelemetry's own variables.

Spans hold what the log holds: methods, route templates, statuses, ids of requests; no URL, no query, no header, no body.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

import structlog

from apishield import __version__
from apishield.core.events import Intake
from apishield.errors import MissingExtra
from apishield.services.drain import Ledger
from apishield.stores.sql.ledger.positions import Claim

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_LAST_EXPORT_SECONDS: Final = 3.0

log = structlog.get_logger("apishield.tracing")


class Tracing:
    """Where spans go. ``start_tracing`` makes it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.tracer = provider.get_tracer("apishield", __version__)

    async def close(self) -> None:
        """Sends what is left, for three seconds at most."""
        try:
            async with asyncio.timeout(_LAST_EXPORT_SECONDS):
                await asyncio.to_thread(self._provider.force_flush, int(_LAST_EXPORT_SECONDS * 1000))
        except TimeoutError:
            log.warning("tracing.not_sent", reason="the collector does not answer")


def start_tracing() -> Tracing | None:
    """Begins to send spans; ``None`` where no collector is named. Raises ``MissingExtra`` where the SDK is not installed."""
    named = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if named is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  an extra
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtra(f"What {named} needs ({error.name})", "otel") from None
    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "apishield")})
    # Not made global: libraries would begin to send spans of their own, with URLs and statements in them.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class TracedLedger:
    """A ledger of which each intake makes a span."""

    def __init__(self, ledger: Ledger, tracing: Tracing) -> None:
        self._ledger = ledger
        self._tracer = tracing.tracer
        self.claim = ledger.claim
        self.settle_pending = ledger.settle_pending
        self.keep_house = ledger.keep_house

    async def apply(self, claim: Claim, intake: Intake, /) -> object:
        """Takes the events (port ``Ledger``)."""
        attributes: dict[str, str | int] = {
            "apishield.stream": intake.stream,
            "apishield.start": intake.start,
            "apishield.end": intake.end,
            "apishield.frames": sum(len(part.frames) for part in intake.parts),
        }
        with self._tracer.start_as_current_span("ledger.apply", attributes=attributes):
            return await self._ledger.apply(claim, intake)


def traced(ledger: Ledger, tracing: Tracing | None) -> Ledger:
    """``ledger``, with spans where they are sent somewhere."""
    return ledger if tracing is None else TracedLedger(ledger, tracing)
