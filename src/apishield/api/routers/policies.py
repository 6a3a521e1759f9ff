"""Policies: limits, whom they apply to, what they count by."""

from __future__ import annotations

from fastapi import Response

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import PageParameters, PolicyId
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.common import PageOf
from apishield.api.schemas.policies import (
    PolicyChanges,
    PolicyCreate,
    PolicyOut,
    PolicyShadowOut,
    listed,
    shown,
)
from apishield.core.records import Policy
from apishield.services.aside import aside

router = control_router("Policies")


@router.post(
    "/v1/policies",
    status_code=201,
    response_model=PolicyOut,
    responses=errors("conflict", "invalid_limit", "ceiling_reached"),
)
@permit(Permission.POLICIES_WRITE)
async def create_policy(body: PolicyCreate, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Makes a policy."""
    draft = await aside(len(body.overrides), body.draft)
    return await _answer(await runtime.policies.create(actor, draft), status=201)


@router.get("/v1/policies", response_model=PageOf[PolicyOut], responses=errors("invalid_cursor"))
@permit(Permission.POLICIES_READ)
async def list_policies(actor: CurrentActor, runtime: CurrentRuntime, page: PageParameters) -> Response:
    """The tenant's policies, newest first, each with its first 100 overrides: a policy by itself has all of them.

    `anonymous`, for callers without a key, came with the tenant.
    """
    found = await runtime.policies.list(actor, page)
    content = await aside(sum(len(policy.overrides) for policy in found.items), lambda: listed(found))
    return Response(content, media_type="application/json")


@router.get("/v1/policies/{policy_id}", response_model=PolicyOut)
@permit(Permission.POLICIES_READ)
async def get_policy(policy_id: PolicyId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """A policy."""
    return await _answer(await runtime.policies.get(actor, policy_id))


@router.patch(
    "/v1/policies/{policy_id}",
    response_model=PolicyOut,
    responses=errors("conflict", "invalid_limit", "ceiling_reached"),
)
@permit(Permission.POLICIES_WRITE)
async def update_policy(
    policy_id: PolicyId, body: PolicyChanges, actor: CurrentActor, runtime: CurrentRuntime
) -> Response:
    """Changes a policy. Numbers change under live traffic and keep their state."""
    await runtime.usage.flush()  # what was counted in shadow until now belongs to the policy as it was
    changes = await aside(len(body.overrides or ()), body.changes)
    return await _answer(await runtime.policies.update(actor, policy_id, changes))


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


async def _answer(policy: Policy, status: int = 200) -> Response:
    """The policy as ``PolicyOut`` has it, written without Pydantic: it may have thousands of overrides."""
    content = await aside(len(policy.overrides), lambda: shown(policy))
    return Response(content, status, media_type="application/json")
