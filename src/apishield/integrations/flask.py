"""Flask: one line protects an app.

::

    app = Flask(__name__)
    protect(app, apishield_url="http://localhost:8000", api_key="sk_live_...")


    @app.delete("/orders/<id>")
    @require_scopes("orders:delete")
    def delete(id): ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, Unpack

from flask import Flask, Response, current_app, request

from apishield.core.decision import Decision
from apishield.errors import ConfigurationError
from apishield.integrations.answers import refusal
from apishield.integrations.protection import ProtectionOptions, RefusedError
from apishield.integrations.scopes import check_scopes
from apishield.integrations.wsgi import DECISION_KEY, INCOMING_KEY, RateLimitMiddleware

P = ParamSpec("P")
T = TypeVar("T")


def protect(app: Flask, **options: Unpack[ProtectionOptions]) -> RateLimitMiddleware:
    """Puts ``app`` behind ``RateLimitMiddleware``; for the options see ``ProtectionOptions``."""
    middleware = RateLimitMiddleware(app.wsgi_app, **options)
    app.wsgi_app = middleware  # type: ignore[method-assign]
    app.register_error_handler(RefusedError, _refused)
    return middleware


def current_decision() -> Decision:
    """The decision about this request. Raises ``ConfigurationError`` where no middleware made one."""
    decision: Decision | None = request.environ.get(DECISION_KEY)
    if decision is None:
        raise ConfigurationError("There is no decision: protect the app, or don't exempt this path.")
    return decision


def require_scopes(*scopes: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Refuses callers whose key lacks one of ``scopes``: 401 without a key, 403 with one."""

    def decorate(view: Callable[P, T]) -> Callable[P, T]:
        @wraps(view)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            check_scopes(current_decision(), scopes)
            answer: T = current_app.ensure_sync(view)(*args, **kwargs)
            return answer

        return checked

    return decorate


def _refused(error: RefusedError) -> Response:
    status, headers, body = refusal(error.decision, request.environ[INCOMING_KEY])
    return Response(body, status, headers)
