"""One line in the log and one count in the metrics for each request of the control plane."""

from __future__ import annotations

from time import perf_counter

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apishield.api.problems import REQUEST_ID
from apishield.telemetry import Metrics

log = structlog.get_logger("apishield.access")

_NO_ROUTE = "(none)"
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})


class AccessMiddleware:
    """Notes method, route template, status and duration; never the query string, which may hold what it should not."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500
        started = perf_counter()

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noting)
        finally:
            seconds = perf_counter() - started
            template = getattr(scope.get("route"), "path_format", _NO_ROUTE)
            self.metrics.requests[scope["method"][:10], template, status] += 1
            self.metrics.request_seconds.observe(seconds)
            write = log.debug if template in _PROBES else log.info
            write(
                "request",
                method=scope["method"][:10],
                path=scope["path"][:200],
                status=status,
                milliseconds=round(seconds * 1000, 1),
                request_id=scope.get(REQUEST_ID),
            )
