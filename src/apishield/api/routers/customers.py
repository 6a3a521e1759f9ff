"""Customers: whom a tenant sells its API to."""

from __future__ import annotations

from fastapi import Response

from apishield.api.auth import CurrentActor
from apishield.api.openapi import errors
from apishield.api.params import CustomerId, PageParameters, Search, page_of
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.common import PageOf
from apishield.api.schemas.customers import CustomerChanges, CustomerCreate, CustomerOut

router = control_router("Customers")


@router.post("/v1/customers", status_code=201, responses=errors("conflict", "invalid_limit", "ceiling_reached"))
@permit(Permission.CUSTOMERS_WRITE)
async def create_customer(body: CustomerCreate, actor: CurrentActor, runtime: CurrentRuntime) -> CustomerOut:
    """Makes a customer. Its limits are shared by all of its keys."""
    return CustomerOut.of(await runtime.customers.create(actor, body.draft()))


@router.get("/v1/customers", responses=errors("invalid_cursor"))
@permit(Permission.CUSTOMERS_READ)
async def list_customers(
    actor: CurrentActor,
    runtime: CurrentRuntime,
    page: PageParameters,
    q: Search | None = None,
    external_id: Search | None = None,
) -> PageOf[CustomerOut]:
    """The tenant's customers, newest first."""
    found = await runtime.customers.list(actor, page, query=q, external_id=external_id)
    return page_of(found, CustomerOut.of)


@router.get("/v1/customers/{customer_id}")
@permit(Permission.CUSTOMERS_READ)
async def get_customer(customer_id: CustomerId, actor: CurrentActor, runtime: CurrentRuntime) -> CustomerOut:
    """A customer."""
    return CustomerOut.of(await runtime.customers.get(actor, customer_id))


@router.patch("/v1/customers/{customer_id}", responses=errors("conflict", "invalid_limit"))
@permit(Permission.CUSTOMERS_WRITE)
async def update_customer(
    customer_id: CustomerId, body: CustomerChanges, actor: CurrentActor, runtime: CurrentRuntime
) -> CustomerOut:
    """Changes a customer; new limits act on all of its keys."""
    return CustomerOut.of(await runtime.customers.update(actor, customer_id, body.changes()))


@router.delete("/v1/customers/{customer_id}", status_code=204, responses=errors("conflict"))
@permit(Permission.CUSTOMERS_WRITE)
async def delete_customer(customer_id: CustomerId, actor: CurrentActor, runtime: CurrentRuntime) -> Response:
    """Removes a customer that has no keys."""
    await runtime.customers.delete(actor, customer_id)
    return Response(status_code=204)
