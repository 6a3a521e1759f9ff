"""The last net: whatever goes wrong inside becomes a problem document that tells nothing of the inside."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apishield.api.middleware.access import template_of
from apishield.api.problems import REQUEST_ID, problem_response
from apishield.errors import ProblemError

log = structlog.get_logger("apishield.api")


class ErrorMiddleware:
    """Answers errors that nobody handled: a ``ProblemError`` as itself, anything else as ``internal``, with a log line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting)
        except ProblemError as problem:
            if started:
                raise
            await problem_response(scope, problem)(scope, receive, send)
        except Exception:
            request_id = scope.get(REQUEST_ID)
            log.exception("request.failed", method=scope["method"], path=template_of(scope), request_id=request_id)
            if started:
                raise
            failure = ProblemError(
                "internal",
                f"The request failed on our side. Give request_id {request_id} to whoever runs this service.",
            )
            await problem_response(scope, failure)(scope, receive, send)
