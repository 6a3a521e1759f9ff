"""Public receipts: what a refused caller may know, for whoever holds the decision's id."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request

from apishield.api.address_limits import AddressLimit
from apishield.api.openapi import errors
from apishield.api.permissions import Permission, permit
from apishield.api.route import CurrentRuntime, control_router
from apishield.api.schemas.decisions import ReceiptOut
from apishield.errors import ProblemError

router = control_router("Decisions")

RECEIPTS_AN_ADDRESS = "60/minute"


@router.get(
    "/receipts/{receipt_id}", responses=errors("not_found", "rate_limited", "database_unavailable", "store_unavailable")
)
@permit(Permission.PUBLIC)
async def get_receipt(
    receipt_id: Annotated[str, Path(max_length=100, description="The id of a decision, as the refusal carries it.")],
    request: Request,
    runtime: CurrentRuntime,
) -> ReceiptOut:
    """Why a request was refused, until when, and how to get out. Needs no token: the id can't be guessed."""
    limit: AddressLimit = request.app.state.receipts
    wait_seconds = await limit.wait_of(request.scope)
    if wait_seconds is not None:
        raise ProblemError(
            "rate_limited",
            f"This address has asked for too many receipts; the limit is {RECEIPTS_AN_ADDRESS}.",
            headers={"Retry-After": str(wait_seconds)},
        )
    return ReceiptOut.of(await runtime.decisions.find_public(receipt_id))
