"""The service itself: alive, ready, its numbers, its version."""

from __future__ import annotations

import platform
from typing import Literal

from fastapi import Request, Response

from apishield import __version__
from apishield.api.auth import Authorizer
from apishield.api.openapi import errors
from apishield.api.origins import Origins
from apishield.api.permissions import Permission, permit
from apishield.api.readiness import reasons_against, warnings_about
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.service import LiveOut, ReadyOut, VersionOut
from apishield.errors import ProblemError

router = control_router("Service")


@router.get("/livez")
@permit(Permission.PUBLIC)
async def get_liveness() -> LiveOut:
    """Whether the process answers. Restart it if it does not."""
    return LiveOut(status="ok")


@router.get("/readyz", responses={**errors("token_invalid"), 503: {"model": ReadyOut}})
@permit(Permission.PUBLIC)
async def get_readiness(request: Request, response: Response, runtime: CurrentRuntime) -> ReadyOut:
    """Whether this node should get traffic. The reasons are for this machine and for the operator's token."""
    reasons = await reasons_against(runtime)
    response.status_code = 503 if reasons else 200
    status: Literal["ready", "not_ready"] = "not_ready" if reasons else "ready"
    if not await _may_look_inside(request):
        return ReadyOut(status=status, reasons=None, warnings=None)
    return ReadyOut(status=status, reasons=reasons, warnings=await warnings_about(runtime))


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        **errors("token_missing", "token_invalid"),
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
@permit(Permission.PUBLIC)
async def get_metrics(request: Request, runtime: CurrentRuntime) -> Response:
    """Numbers of all processes of this node, for Prometheus. From other machines it needs the operator's token."""
    if not await _may_look_inside(request):
        raise ProblemError("token_missing", "From other machines the metrics need the operator's token.")
    text, media_type = await runtime.metrics.scrape()
    return Response(text, headers={"Content-Type": media_type})


@router.get("/version")
@permit(Permission.PUBLIC)
async def get_version() -> VersionOut:
    """What runs here."""
    return VersionOut(version=__version__, python=platform.python_version())


async def _may_look_inside(request: Request) -> bool:
    origins: Origins = request.app.state.origins
    authorizer: Authorizer = request.app.state.authorizer
    return origins.is_local(request.scope) or await authorizer.is_operator(request.scope)
