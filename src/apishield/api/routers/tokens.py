"""Tokens of the control plane."""

from __future__ import annotations

from fastapi import Response

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import PageParameters, TokenId, page_of
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.common import PageOf
from apishield.api.schemas.tokens import CreatedTokenOut, TokenCreate, TokenOut
from apishield.core.records import Role

router = control_router("Tokens")


@router.post("/v1/tokens", status_code=201, responses=errors("ceiling_reached"))
@permit(Permission.TOKENS_WRITE)
async def create_token(body: TokenCreate, actor: CurrentActor, runtime: CurrentRuntime) -> CreatedTokenOut:
    """Makes a token. It can't have more rights, or a longer life, than the one that makes it. Shown once."""
    token, secret = await runtime.tokens.create(
        actor, name=body.name, role=Role(body.role), expires_at_us=body.expires_at
    )
    return CreatedTokenOut.made(token, secret, runtime.clock())


@router.get("/v1/tokens", responses=errors("invalid_cursor"))
@permit(Permission.TOKENS_READ)
async def list_tokens(actor: CurrentActor, runtime: CurrentRuntime, page: PageParameters) -> PageOf[TokenOut]:
    """The tenant's tokens, newest first, revoked ones included."""
    now_us = runtime.clock()
    return page_of(await runtime.tokens.list(actor, page), lambda token: TokenOut.of(token, now_us))


@router.delete("/v1/tokens/{token_id}", status_code=204)
@permit(Permission.TOKENS_WRITE)
async def revoke_token(token_id: TokenId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Revokes a token, for ever. Revoking it again changes nothing."""
    await runtime.tokens.revoke(actor, token_id)
    return Response(status_code=204)
