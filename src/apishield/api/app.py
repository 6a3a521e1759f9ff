"""The control plane as one ASGI application: the frame, the routes, the documentation.

Owns: putting the parts together, refusing to start with a route that nobody thought about.
Does not own: the data plane (``dataplane``), which stands in front of it (``asgi``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from apishield import __version__
from apishield.api import openapi
from apishield.api.address_limits import AddressLimit
from apishield.api.auth import Authorizer
from apishield.api.middleware.access import AccessMiddleware
from apishield.api.middleware.bounds import BoundsMiddleware
from apishield.api.middleware.errors import ErrorMiddleware
from apishield.api.middleware.head import HeadMiddleware
from apishield.api.middleware.request_id import RequestIdMiddleware
from apishield.api.middleware.security_headers import SecurityHeadersMiddleware
from apishield.api.middleware.tracing import TracingMiddleware
from apishield.api.origins import HostMiddleware, Origins
from apishield.api.permissions import permission_of
from apishield.api.problems import answer_http_error, answer_invalid, answer_problem, answer_store_unavailable
from apishield.api.route import ControlRoute
from apishield.api.routers import (
    analytics,
    audit,
    blocks,
    customers,
    decisions,
    docs,
    endpoints,
    export,
    keys,
    policies,
    receipts,
    replay,
    service,
    tenants,
    tokens,
)
from apishield.api.signup import SignUps
from apishield.bootstrap import Runtime
from apishield.core.ids import new_id
from apishield.errors import ProblemError, StoreUnavailable

ROUTERS = (
    tenants,
    tokens,
    keys,
    customers,
    policies,
    replay,
    endpoints,
    blocks,
    analytics,
    export,
    decisions,
    receipts,
    audit,
    service,
    docs,
)


def create_app(runtime: Runtime, documented: Mapping[str, Any] | None = None) -> FastAPI:
    """The control plane of ``runtime``.

    ``documented`` is an OpenAPI document of operations that are served in front of it; ``/openapi.json`` shows them too.
    Raises ``TypeError`` where a route declares no permission.
    """
    origins = Origins(runtime.settings)
    app = FastAPI(
        title=openapi.TITLE,
        version=__version__,
        openapi_url=None,  # served by routers.docs, as every route with a permission of its own
        redirect_slashes=False,  # one spelling a path
        telemetry={"tracing": False, "metrics": False, "logs": False},  # its logs would carry what requests sent
        middleware=[
            Middleware(RequestIdMiddleware, make=lambda: new_id("req", runtime.clock(), runtime.entropy)),
            *([] if runtime.tracing is None else [Middleware(TracingMiddleware, tracing=runtime.tracing)]),
            Middleware(SecurityHeadersMiddleware),
            Middleware(HeadMiddleware),
            Middleware(AccessMiddleware, metrics=runtime.metrics),
            Middleware(ErrorMiddleware),
            Middleware(BoundsMiddleware),
            Middleware(HostMiddleware, origins=origins),
        ],
        exception_handlers={
            ProblemError: answer_problem,
            StoreUnavailable: answer_store_unavailable,
            RequestValidationError: answer_invalid,
            HTTPException: answer_http_error,
        },
    )
    app.state.runtime = runtime
    app.state.origins = origins
    app.state.authorizer = Authorizer(runtime, origins)
    app.state.receipts = AddressLimit(origins, runtime.store, "receipts", receipts.RECEIPTS_AN_ADDRESS)
    app.state.sign_ups = SignUps(origins, runtime.store, runtime.settings.signup_limit)
    app.router.routes.extend(routes())  # as they are: no prefix, nothing inherited
    app.openapi = cache(lambda: document(documented))  # type: ignore[method-assign]  # FastAPI's way to extend it
    return app


def document(documented: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The OpenAPI document of the control plane, and of the operations in ``documented``."""
    return openapi.build(routes(), documented or {})


def routes() -> list[ControlRoute]:
    """All routes. Raises ``TypeError`` for one without a permission: it would be open to everybody."""
    found: list[ControlRoute] = []
    for route in (route for module in ROUTERS for route in module.router.routes):
        if not isinstance(route, ControlRoute) or permission_of(route.endpoint) is None:
            raise TypeError(f"{getattr(route, 'path', route)!r} declares no permission; add @permit(…)")
        found.append(route)
    return found
