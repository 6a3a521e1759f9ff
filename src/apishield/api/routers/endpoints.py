"""The catalogue of endpoints: what scopes the routes of an API ask for, and what they cost."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import EndpointId, PageParameters, page_of
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.common import PageOf
from apishield.api.schemas.endpoints import EndpointCreate, EndpointImportOut, EndpointOut, OpenAPIDocument

router = control_router("Endpoints")

BasePath = Annotated[
    str,
    Query(
        max_length=512, pattern=r"^(/[^?#{}*]*)?$", description="Instead of the path of the document's first server."
    ),
]


@router.post("/v1/endpoints", status_code=201, responses=errors("conflict", "ceiling_reached"))
@permit(Permission.ENDPOINTS_WRITE)
async def create_endpoint(body: EndpointCreate, actor: CurrentActor, runtime: CurrentRuntime) -> EndpointOut:
    """Puts an endpoint into the catalogue. There is one of a method and path, whatever its placeholders are called."""
    return EndpointOut.of(await runtime.endpoints.create(actor, body.draft()))


@router.get("/v1/endpoints", responses=errors("invalid_cursor"))
@permit(Permission.ENDPOINTS_READ)
async def list_endpoints(actor: CurrentActor, runtime: CurrentRuntime, page: PageParameters) -> PageOf[EndpointOut]:
    """The tenant's endpoints, newest first."""
    return page_of(await runtime.endpoints.list(actor, page), EndpointOut.of)


@router.post("/v1/endpoints/import")
@permit(Permission.ENDPOINTS_WRITE)
async def import_endpoints(
    body: OpenAPIDocument, actor: CurrentActor, runtime: CurrentRuntime, base_path: BasePath | None = None
) -> EndpointImportOut:
    """Takes over the operations of an OpenAPI document: paths, methods, scopes, `x-apishield-cost`.

    Importing again changes what the document now says otherwise, and leaves all else. A bad operation spoils only itself.
    """
    return EndpointImportOut.of(await runtime.endpoints.import_document(actor, body, base_path=base_path))


@router.get("/v1/endpoints/{endpoint_id}")
@permit(Permission.ENDPOINTS_READ)
async def get_endpoint(endpoint_id: EndpointId, actor: CurrentActor, runtime: CurrentRuntime) -> EndpointOut:
    """An endpoint."""
    return EndpointOut.of(await runtime.endpoints.get(actor, endpoint_id))


@router.delete("/v1/endpoints/{endpoint_id}", status_code=204)
@permit(Permission.ENDPOINTS_WRITE)
async def delete_endpoint(endpoint_id: EndpointId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Takes an endpoint out of the catalogue."""
    await runtime.endpoints.delete(actor, endpoint_id)
    return Response(status_code=204)
