"""API keys: their whole life, and where their limits stand."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import KeyId, PageParameters, Search, page_of
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.common import PageOf
from apishield.api.schemas.keys import (
    CreatedKeyOut,
    KeyChanges,
    KeyCreate,
    KeyImport,
    KeyImportOut,
    KeyOut,
    KeyRotation,
)
from apishield.api.schemas.usage import KeyUsageOut
from apishield.core.key_manager.lifecycle import Status
from apishield.core.records import KeyKind
from apishield.services.key_drafts import ImportItem

router = control_router("Keys")


@router.post("/v1/keys", status_code=201, responses=errors("invalid_limit", "ceiling_reached"))
@permit(Permission.KEYS_WRITE)
async def create_key(body: KeyCreate, actor: CurrentActor, runtime: CurrentRuntime) -> CreatedKeyOut:
    """Makes a key. Its secret is shown only here."""
    key, secret = await runtime.keys.create(actor, body.draft(KeyKind(body.kind)))
    return CreatedKeyOut.made(key, secret, runtime.clock())


@router.get("/v1/keys", responses=errors("invalid_cursor"))
@permit(Permission.KEYS_READ)
async def list_keys(
    actor: CurrentActor,
    runtime: CurrentRuntime,
    page: PageParameters,
    status: Annotated[Status | None, Query()] = None,
    customer_id: Search | None = None,
    q: Annotated[Search | None, Query(description="Looked for in names and hints; or a whole id.")] = None,
) -> PageOf[KeyOut]:
    """The tenant's keys, newest first."""
    now_us = runtime.clock()
    found = await runtime.keys.list(actor, page, status=status, customer_id=customer_id, query=q)
    return page_of(found, lambda key: KeyOut.of(key, now_us))


@router.post("/v1/keys/import")
@permit(Permission.KEYS_WRITE)
async def import_keys(body: KeyImport, actor: CurrentActor, runtime: CurrentRuntime) -> KeyImportOut:
    """Takes over up to 1,000 existing keys, in clear or by their SHA-256. A bad one spoils only itself."""
    sound = [item for item in body.keys if isinstance(item, ImportItem)]
    results = iter(await runtime.keys.import_many(actor, sound) if sound else ())
    return KeyImportOut.of([next(results) if isinstance(item, ImportItem) else item for item in body.keys])


@router.get("/v1/keys/{key_id}")
@permit(Permission.KEYS_READ)
async def get_key(key_id: KeyId, actor: CurrentActor, runtime: CurrentRuntime) -> KeyOut:
    """A key, whatever its state."""
    return KeyOut.of(await runtime.keys.get(actor, key_id), runtime.clock())


@router.patch("/v1/keys/{key_id}", responses=errors("conflict", "invalid_limit"))
@permit(Permission.KEYS_WRITE)
async def update_key(key_id: KeyId, body: KeyChanges, actor: CurrentActor, runtime: CurrentRuntime) -> KeyOut:
    """Changes a key. It acts on all nodes within a second; a limit that keeps its name keeps its state."""
    return KeyOut.of(await runtime.keys.update(actor, key_id, body.changes()), runtime.clock())


@router.delete("/v1/keys/{key_id}", status_code=204)
@permit(Permission.KEYS_WRITE)
async def delete_key(key_id: KeyId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Revokes a key, for ever; its record stays. Revoking it again changes nothing."""
    await runtime.keys.revoke(actor, key_id)
    return Response(status_code=204)


@router.post("/v1/keys/{key_id}/revoke")
@permit(Permission.KEYS_WRITE)
async def revoke_key(key_id: KeyId, actor: CurrentActor, runtime: CurrentRuntime) -> KeyOut:
    """Revokes a key, for ever; its record stays. Revoking it again changes nothing."""
    return KeyOut.of(await runtime.keys.revoke(actor, key_id), runtime.clock())


@router.post("/v1/keys/{key_id}/rotate", responses=errors("conflict"))
@permit(Permission.KEYS_WRITE)
async def rotate_key(
    key_id: KeyId, actor: CurrentActor, runtime: CurrentRuntime, body: KeyRotation = KeyRotation(grace_seconds=0)
) -> CreatedKeyOut:
    """Gives the key a new secret, shown only here. The one before works for `grace_seconds` more."""
    key, secret = await runtime.keys.rotate(actor, key_id, grace_seconds=body.grace_seconds)
    return CreatedKeyOut.made(key, secret, runtime.clock())


@router.get("/v1/keys/{key_id}/usage", responses=errors("store_unavailable"))
@permit(Permission.KEYS_READ)
async def get_key_usage(key_id: KeyId, actor: CurrentActor, runtime: CurrentRuntime) -> KeyUsageOut:
    """Where the key's limits and quotas stand, and what it did today and this month. Charges nothing."""
    key = await runtime.keys.get(actor, key_id)
    return KeyUsageOut.of(await runtime.usage.key_usage(actor, key))


@router.post("/v1/keys/{key_id}/limits/reset", status_code=204, responses=errors("store_unavailable"))
@permit(Permission.KEYS_WRITE)
async def reset_key_limits(key_id: KeyId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Forgets what the key's own rate limits have counted. Quotas, and limits shared with others of its customer, stay."""
    await runtime.usage.reset(actor, await runtime.keys.get(actor, key_id))
    return Response(status_code=204)
