"""Policies: limits, whom they apply to, what they count by."""

from __future__ import annotations

from fastapi import Response

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import PageParameters, PolicyId, page_of
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.common import PageOf
from apishield.api.schemas.policies import PolicyChanges, PolicyCreate, PolicyOut, PolicyShadowOut

router = control_router("Policies")


@router.post("/v1/policies", status_code=201, responses=errors("conflict", "invalid_limit", "ceiling_reached"))
@permit(Permission.POLICIES_WRITE)
async def create_policy(body: PolicyCreate, actor: CurrentActor, runtime: CurrentRuntime) -> PolicyOut:
    """Makes a policy."""
    return PolicyOut.of(await runtime.policies.create(actor, body.draft()))


@router.get("/v1/policies", responses=errors("invalid_cursor"))
@permit(Permission.POLICIES_READ)
async def list_policies(actor: CurrentActor, runtime: CurrentRuntime, page: PageParameters) -> PageOf[PolicyOut]:
    """The tenant's policies, newest first. `anonymous`, for callers without a key, came with the tenant."""
    return page_of(await runtime.policies.list(actor, page), PolicyOut.of)


@router.get("/v1/policies/{policy_id}")
@permit(Permission.POLICIES_READ)
async def get_policy(policy_id: PolicyId, actor: CurrentActor, runtime: CurrentRuntime) -> PolicyOut:
    """A policy."""
    return PolicyOut.of(await runtime.policies.get(actor, policy_id))


@router.patch("/v1/policies/{policy_id}", responses=errors("conflict", "invalid_limit", "ceiling_reached"))
@permit(Permission.POLICIES_WRITE)
async def update_policy(
    policy_id: PolicyId, body: PolicyChanges, actor: CurrentActor, runtime: CurrentRuntime
) -> PolicyOut:
    """Changes a policy. Numbers change under live traffic and keep their state."""
    await runtime.usage.flush()  # what was counted in shadow until now belongs to the policy as it was
    return PolicyOut.of(await runtime.policies.update(actor, policy_id, body.changes()))


@router.get("/v1/policies/{policy_id}/shadow")
@permit(Permission.POLICIES_READ)
async def get_policy_shadow(policy_id: PolicyId, actor: CurrentActor, runtime: CurrentRuntime) -> PolicyShadowOut:
    """What the policy would have refused in shadow, since its last change: how often, by day, and whom most."""
    policy = await runtime.policies.get(actor, policy_id)
    return PolicyShadowOut.of(await runtime.usage.shadow_report(policy))


@router.delete("/v1/policies/{policy_id}", status_code=204)
@permit(Permission.POLICIES_WRITE)
async def delete_policy(policy_id: PolicyId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Removes a policy."""
    await runtime.policies.delete(actor, policy_id)
    return Response(status_code=204)
