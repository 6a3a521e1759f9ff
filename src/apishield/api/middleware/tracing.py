"""One span for each request of the control plane, where spans are sent somewhere."""

from __future__ import annotations

from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apishield.api.middleware.access import template_of
from apishield.api.problems import REQUEST_ID
from apishield.telemetry.tracing import Tracing

_CARRIED = {b"traceparent": "traceparent", b"tracestate": "tracestate"}


class TracingMiddleware:
    """Continues the caller's trace (W3C Trace Context), or begins one."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self._tracer = tracing.tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        carried = {_CARRIED[name]: value.decode("latin-1") for name, value in scope["headers"] if name in _CARRIED}
        method = scope["method"][:10]
        with self._tracer.start_as_current_span(
            method,
            context=self._propagator.extract(carried),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
            record_exception=False,  # its text may hold what was sent
            set_status_on_exception=False,
        ) as span:
            status = 500

            async def send_noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self.app(scope, receive, send_noting)
            finally:
                route = template_of(scope)
                span.update_name(f"{method} {route}")
                span.set_attributes({"http.route": route, "http.response.status_code": status})
                span.set_attribute("apishield.request_id", scope.get(REQUEST_ID, ""))
                if status >= 500:
                    span.set_status(Status(StatusCode.ERROR))
