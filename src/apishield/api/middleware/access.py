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
    """Notes method, route template, status and duration; never the URL itself, in which people put secrets."""

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
            template = template_of(scope)
            self.metrics.requests[scope["method"][:10], template, status] += 1
            self.metrics.request_seconds.observe(seconds)
            write = log.debug if template in _PROBES else log.info
            write(
                "request",
                method=scope["method"][:10],
                path=template,
                status=status,
                milliseconds=round(seconds * 1000, 1),
                request_id=scope.get(REQUEST_ID),
            )


def template_of(scope: Scope) -> str:
    """The route that served the request, for the log, into which what a stranger wrote into a URL does not go."""
    template: str = getattr(scope.get("route"), "path_format", _NO_ROUTE)
    return template
