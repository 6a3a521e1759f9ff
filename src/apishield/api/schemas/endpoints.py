"""The catalogue of endpoints, and what an import made of a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, WithJsonSchema

from apishield.api.problems import FORM
from apishield.api.schemas.common import FaultOut, Input, Output, Timestamp, example
from apishield.api.schemas.keys import Scopes
from apishield.api.schemas.limits import UnitName
from apishield.api.times import to_rfc3339
from apishield.core.model import MAX_UNITS
from apishield.core.records import Endpoint
from apishield.services.endpoints import MAX_UNITS_NAMED, EndpointDraft, ImportedEndpoint

Units = Annotated[int, Field(ge=0, le=MAX_UNITS)]


def _cost_form(value: object) -> str | None:
    if isinstance(value, dict):
        return f"{FORM}by_unit"
    return f"{FORM}requests" if isinstance(value, int) and not isinstance(value, bool) else None


EndpointCost = Annotated[
    Annotated[Units, Tag(f"{FORM}requests")]
    | Annotated[
        Annotated[dict[UnitName, Units], Field(min_length=1, max_length=MAX_UNITS_NAMED)], Tag(f"{FORM}by_unit")
    ],
    Discriminator(
        _cost_form,
        custom_error_type="cost",
        custom_error_message='must be an integer, or integers by unit such as {"requests": 1, "tokens": 900}',
    ),
    Field(description="What a check costs that says nothing of it: requests, or units by name.", examples=[1]),
]
EndpointMethod = Annotated[str, StringConstraints(pattern=r"^([A-Z]{1,16}|\*)$")]
EndpointPath = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern="^/")]
RequiredScopes = Annotated[
    Scopes | None,
    Field(
        description="What a key must hold; a caller without a key is then refused. "
        "`null`: the method's default scope, of keys only. `[]`: nothing, of nobody."
    ),
]

EXAMPLE = {
    "id": "end_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "method": "GET",
    "path": "/orders/{id}",
    "required_scopes": ["orders:read"],
    "cost": 1,
    "login": False,
    "created_at": "2026-11-23T14:00:00.123456Z",
    "updated_at": "2026-11-23T14:00:00.123456Z",
}


class EndpointCreate(Input):
    """A new endpoint."""

    model_config = example({"method": "GET", "path": "/orders/{id}", "required_scopes": ["orders:read"], "cost": 1})

    method: EndpointMethod = Field(description="As HTTP writes it, or `*` for any.", examples=["GET", "*"])
    path: EndpointPath = Field(description="`{name}` stands for part of a segment, `*` at the end for all below.")
    required_scopes: RequiredScopes = None
    cost: EndpointCost = 1
    login: bool = Field(False, description="Whether callers give their passwords here.")

    def draft(self) -> EndpointDraft:
        """The value inside."""
        return EndpointDraft(
            method=self.method,
            path=self.path,
            required_scopes=None if self.required_scopes is None else tuple(self.required_scopes),
            cost=self.cost,
            login=self.login,
        )


class EndpointOut(Output):
    """An endpoint."""

    model_config = example(EXAMPLE)

    id: str
    method: str
    path: str
    required_scopes: list[str] | None
    cost: int | dict[str, int]
    login: bool
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, endpoint: Endpoint) -> EndpointOut:
        """How ``endpoint`` is shown."""
        return cls(
            id=endpoint.id,
            method=endpoint.method,
            path=endpoint.path,
            required_scopes=None if endpoint.required_scopes is None else list(endpoint.required_scopes),
            cost=endpoint.cost,
            login=endpoint.login,
            created_at=to_rfc3339(endpoint.created_at_us),
            updated_at=to_rfc3339(endpoint.updated_at_us),
        )


OPENAPI_EXAMPLE = {
    "openapi": "3.1.0",
    "info": {"title": "Orders", "version": "1"},
    "servers": [{"url": "https://api.example.com/v1"}],
    "paths": {
        "/orders/{id}": {"get": {"security": [{"oauth": ["orders:read"]}]}},
        "/export": {"post": {"security": [{"oauth": ["orders:read"]}], "x-apishield-cost": 10}},
    },
}
OpenAPIDocument = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "title": "OpenAPIDocument",
            "description": "An OpenAPI 3.0 or 3.1 document, or a Swagger 2.0 one, as JSON.",
            "required": ["paths"],
            "properties": {
                "openapi": {"type": "string"},
                "swagger": {"type": "string"},
                "paths": {"type": "object"},
            },
            "examples": [OPENAPI_EXAMPLE],
        }
    ),
]


class ImportedEndpointOut(Output):
    """What became of one operation."""

    pointer: str = Field(description="Where it stands in the document (RFC 6901).")
    method: str
    path: str
    outcome: Literal["created", "updated", "unchanged", "failed"]
    id: str | None
    errors: list[FaultOut]


class EndpointImportOut(Output):
    """What became of each operation, in the order of the document. A bad one spoils only itself."""

    model_config = example(
        {
            "created": 1,
            "updated": 0,
            "unchanged": 0,
            "failed": 0,
            "results": [
                {
                    "pointer": "/paths/~1orders~1{id}/get",
                    "method": "GET",
                    "path": "/v1/orders/{id}",
                    "outcome": "created",
                    "id": "end_06dnd0g2v5v7h3m8k1q0p2r4t6",
                    "errors": [],
                }
            ],
        }
    )

    created: int
    updated: int
    unchanged: int
    failed: int
    results: list[ImportedEndpointOut]

    @classmethod
    def of(cls, results: Sequence[ImportedEndpoint]) -> EndpointImportOut:
        """How the results of an import are shown."""
        outcomes = [result.outcome for result in results]
        return cls(
            created=outcomes.count("created"),
            updated=outcomes.count("updated"),
            unchanged=outcomes.count("unchanged"),
            failed=outcomes.count("failed"),
            results=[
                ImportedEndpointOut(
                    pointer=result.pointer,
                    method=result.method,
                    path=result.path,
                    outcome=result.outcome,
                    id=None if result.endpoint is None else result.endpoint.id,
                    errors=[FaultOut(pointer=fault.pointer, message=fault.message) for fault in result.faults],
                )
                for result in results
            ],
        )
