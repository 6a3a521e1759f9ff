"""Tenants: sign up, look, change; the operator's view of all of them."""

from __future__ import annotations

from fastapi import Request, Response

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import PageParameters, TenantId, page_of
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.common import PageOf
from apishield.api.schemas.keys import CreatedKeyOut
from apishield.api.schemas.tenants import CreatedTenantOut, OwnTenantChanges, TenantChanges, TenantCreate, TenantOut
from apishield.api.signup import SignUps
from apishield.services import tenants as service
from apishield.services.base import tenant_of

router = control_router("Tenants")


@router.post("/v1/tenants", status_code=201, responses=errors("signup_closed", "signup_rate_limited", "token_invalid"))
@permit(Permission.SIGN_UP)
async def create_tenant(
    request: Request, body: TenantCreate, actor: CurrentActor, runtime: CurrentRuntime
) -> CreatedTenantOut:
    """Makes a tenant, with its first token and its first service key; both are shown only here.

    Without a token it works for programs on the machine that the service runs on, or where `APISHIELD_SIGNUP=open`.
    """
    if actor.role is None:
        sign_ups: SignUps = request.app.state.sign_ups
        await sign_ups.admit(request.scope)
    made = await runtime.tenants.create(actor, name=body.name, plan=body.plan, metadata=body.metadata)
    api_key = CreatedKeyOut.made(made.key, made.key_secret, runtime.clock())
    return CreatedTenantOut.made(made.tenant, made.token.id, made.token_secret, api_key)


@router.get("/v1/tenants", responses=errors("invalid_cursor"))
@permit(Permission.TENANTS_MANAGE)
async def list_tenants(actor: CurrentActor, runtime: CurrentRuntime, page: PageParameters) -> PageOf[TenantOut]:
    """All tenants, newest first (operator)."""
    return page_of(await runtime.tenants.list(actor, page), TenantOut.of)


@router.get("/v1/tenants/{tenant_id}")
@permit(Permission.TENANTS_MANAGE)
async def get_tenant(tenant_id: TenantId, actor: CurrentActor, runtime: CurrentRuntime) -> TenantOut:
    """A tenant (operator)."""
    return TenantOut.of(await runtime.tenants.get(actor, tenant_id))


@router.patch("/v1/tenants/{tenant_id}")
@permit(Permission.TENANTS_MANAGE)
async def update_tenant(
    tenant_id: TenantId, body: TenantChanges, actor: CurrentActor, runtime: CurrentRuntime
) -> TenantOut:
    """Changes a tenant: its plan, or whether it is suspended (operator)."""
    return TenantOut.of(await runtime.tenants.update(actor, tenant_id, service.TenantChanges(**body.given())))


@router.delete("/v1/tenants/{tenant_id}", status_code=204)
@permit(Permission.TENANTS_MANAGE)
async def delete_tenant(tenant_id: TenantId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Ends a tenant: its tokens and keys stop to work at once; its records stay (operator)."""
    await runtime.tenants.delete(actor, tenant_id)
    return Response(status_code=204)


@router.get("/v1/tenant")
@permit(Permission.TENANT_READ)
async def get_own_tenant(actor: CurrentActor, runtime: CurrentRuntime) -> TenantOut:
    """The tenant of the token."""
    return TenantOut.of(await runtime.tenants.get(actor, tenant_of(actor)))


@router.patch("/v1/tenant")
@permit(Permission.TENANT_WRITE)
async def update_own_tenant(body: OwnTenantChanges, actor: CurrentActor, runtime: CurrentRuntime) -> TenantOut:
    """Changes the tenant of the token."""
    changes = service.TenantChanges(**body.given())
    return TenantOut.of(await runtime.tenants.update(actor, tenant_of(actor), changes))
