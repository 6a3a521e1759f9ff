"""Replays: what a policy would have done to recorded traffic."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import ReplayId
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.replay import ReplayCreate, ReplayOut

router = control_router("Policies")

_RUNNING: Final[dict[int | str, dict[str, Any]]] = {
    202: {"description": "It takes longer: ask for it under `Location` until it is done.", "model": ReplayOut}
}


@router.post("/v1/policies/replay", responses={**_RUNNING, **errors("invalid_limit", "ceiling_reached")})
@permit(Permission.POLICIES_WRITE)
async def replay_policy(
    body: ReplayCreate, actor: CurrentActor, runtime: CurrentRuntime, response: Response
) -> ReplayOut:
    """What a policy, or a limit, would have done to the traffic that was recorded. Nobody is refused, nothing is charged.

    200 with the result where it is there within a second; else 202, and it goes on.
    """
    job = await runtime.replays.begin(actor, body.draft(runtime.clock()))
    if job.status == "running":
        response.status_code = 202
        response.headers["Location"] = f"/v1/policies/replay/{job.id}"
    return ReplayOut.of(job)


@router.get("/v1/policies/replay/{replay_id}")
@permit(Permission.POLICIES_READ)
async def get_replay(replay_id: ReplayId, actor: CurrentActor, runtime: CurrentRuntime) -> ReplayOut:
    """A replay: how far it is, and what came of it. The newest 50 are kept, for 7 days."""
    return ReplayOut.of(await runtime.replays.get(actor, replay_id))


@router.delete("/v1/policies/replay/{replay_id}", status_code=204)
@permit(Permission.POLICIES_WRITE)
async def delete_replay(replay_id: ReplayId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Ends a replay that is under way, and forgets it."""
    await runtime.replays.delete(actor, replay_id)
    return Response(status_code=204)
