"""Dependencies for FastAPI (and Starlette) behind ``RateLimitMiddleware``.

::

    @app.delete("/orders/{id}", dependencies=[Depends(require_scopes("orders:delete"))])
    def delete(decision: Annotated[Decision, Depends(current_decision)]): ...
"""

from __future__ import annotations

from collections.abc import Callable

# Not under TYPE_CHECKING: FastAPI reads the annotations of a dependency when it is declared.
from starlette.requests import HTTPConnection

from apishield.core.decision import Decision
from apishield.errors import ConfigurationError
from apishield.integrations.asgi import STATE_KEY
from apishield.integrations.scopes import check_scopes


def current_decision(connection: HTTPConnection) -> Decision:
    """The decision about this request. Raises ``ConfigurationError`` where no middleware made one."""
    decision: Decision | None = getattr(connection.state, STATE_KEY, None)
    if decision is None:
        raise ConfigurationError("There is no decision: add RateLimitMiddleware to the app, or don't exempt this path.")
    return decision


def require_scopes(*scopes: str) -> Callable[[HTTPConnection], Decision]:
    """A dependency that refuses callers whose key lacks one of ``scopes``, and returns the decision.

    The middleware answers the refusal, as it answers its own: 401 without a key, 403 with a key that lacks a scope.
    """

    def dependency(connection: HTTPConnection) -> Decision:
        return check_scopes(current_decision(connection), scopes)

    return dependency
