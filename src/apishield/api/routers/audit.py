"""The audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import InstantQuery, PageParameters, Search, page_of
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.audit import AuditEntryOut
from apishield.api.schemas.common import PageOf

router = control_router("Audit")


@router.get("/v1/audit-log", responses=errors("invalid_cursor"))
@permit(Permission.AUDIT_READ)
async def list_audit_entries(
    by: CurrentActor,
    runtime: CurrentRuntime,
    page: PageParameters,
    actor: Annotated[Search | None, Query(description="A token's id, or `operator`.")] = None,
    action: Annotated[Search | None, Query(description="Such as `key.created`, or `key.*`.")] = None,
    target: Annotated[Search | None, Query(description="The id of what was changed.")] = None,
    from_: Annotated[InstantQuery | None, Query(alias="from")] = None,
    to: Annotated[InstantQuery | None, Query(description="The first instant that is left out.")] = None,
) -> PageOf[AuditEntryOut]:
    """Every change, newest first. The operator, naming no tenant, sees what was done for all."""
    found = await runtime.audit.list(by, page, actor_id=actor, action=action, target=target, from_us=from_, to_us=to)
    return page_of(found, AuditEntryOut.of)
