"""The OpenAPI 3.1 document: what FastAPI derives, and for each operation its security, its errors and its examples.

Errors that follow from what an operation is (it takes a body, it needs a token …) are added here; a route names only what is
its own, with ``errors``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel

from apishield import __version__
from apishield.api.idempotency import HEADER as IDEMPOTENCY_HEADER
from apishield.api.permissions import Permission, permission_of
from apishield.api.problems import MEDIA_TYPE
from apishield.api.schemas.common import EXAMPLE_REQUEST_ID, Input, Output, ProblemOut
from apishield.errors import PROBLEM_TYPE_BASE, PROBLEMS

TITLE = "APIShield"
LICENSE = {"name": "MIT", "identifier": "MIT"}
DESCRIPTION = """
Rate limiting, API keys, abuse protection, usage analytics and usage-based billing for teams that run an API.

Every error is a problem document (RFC 9457); its `type` opens a page that says what happened and how to fix it.
Lists are pages: pass `next_cursor` as `?cursor=` to get the next one.
"""
TAGS = [
    {"name": "Tenants", "description": "Accounts that own keys, policies and traffic."},
    {"name": "Tokens", "description": "Credentials of the control plane."},
    {"name": "Keys", "description": "API keys: for callers of your API, and for your SDK or gateway."},
    {"name": "Customers", "description": "Whom you sell your API to; their keys share limits."},
    {"name": "Policies", "description": "Limits, whom they apply to, what they count by."},
    {"name": "Endpoints", "description": "The routes of your API: scopes they ask for, what they cost."},
    {"name": "Blocks", "description": "Addresses, networks and keys that are refused, or spared."},
    {
        "name": "Analytics",
        "description": "What the ledger says of the traffic: the same sums that quotas and bills stand on.",
    },
    {"name": "Decisions", "description": "Single decisions: why a request was let through or refused."},
    {"name": "Audit", "description": "Every change, chained so that none can be taken back unseen."},
    {"name": "Checks", "description": "The data plane: may this request pass?"},
    {"name": "Service", "description": "Health, metrics, version."},
]
SECURITY_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A tenant's token (`ast_…`), or the operator's (`aso_…`) with `X-APIShield-Tenant`.",
    }
}
PARAMETERS = {
    "Tenant": {
        "name": "X-APIShield-Tenant",
        "in": "header",
        "required": False,
        "description": "The tenant that the operator's token acts in.",
        "schema": {"type": "string", "pattern": "^ten_[0-9a-v]{26}$"},
    },
    "IdempotencyKey": {
        "name": IDEMPOTENCY_HEADER,
        "in": "header",
        "required": False,
        "description": "Makes the request safe to repeat for 24 hours: the first answer is given again.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    },
}
HEADERS = {
    "RequestId": {"description": "Names the request in the log.", "schema": {"type": "string"}},
}
_CODES = "x-apishield-codes"
_ORDER = {code: place for place, code in enumerate(PROBLEMS)}


def errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that can answer with ``codes``, besides what every route of its kind can."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        problem = PROBLEMS[code]
        found.setdefault(problem.status, {"description": problem.title, _CODES: []})[_CODES].append(code)
    return found


def build(routes: Sequence[APIRoute], documented: Mapping[str, Any]) -> dict[str, Any]:
    """The document of ``routes``, and of the operations in ``documented``."""
    document = get_openapi(
        title=TITLE, version=__version__, description=DESCRIPTION, routes=routes, tags=TAGS, license_info=LICENSE
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for generated in ("HTTPValidationError", "ValidationError"):
        schemas.pop(generated, None)
    _restore_examples(schemas)
    problem = ProblemOut.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    components["securitySchemes"] = SECURITY_SCHEMES
    components["parameters"] = PARAMETERS
    components["headers"] = HEADERS
    responses = components.setdefault("responses", {})
    for route in routes:
        for method in route.methods or ():
            operation = document["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None:
                _complete(operation, method, route, schemas, responses)
    for section, entries in documented.get("components", {}).items():
        components.setdefault(section, {}).update(entries)
    document["paths"].update(documented.get("paths", {}))
    return document


def _complete(
    operation: dict[str, Any], method: str, route: APIRoute, schemas: Mapping[str, Any], responses: dict[str, Any]
) -> None:
    permission = permission_of(route.endpoint)
    assert permission is not None, route.path
    operation["security"] = [] if permission is Permission.PUBLIC else [{"token": []}]
    if permission is Permission.SIGN_UP:
        operation["security"].append({})
    declared = [code for response in operation["responses"].values() for code in response.get(_CODES, ())]
    codes = sorted({*declared, *_implied(operation, method, permission)}, key=_ORDER.__getitem__)
    parameters = operation.setdefault("parameters", [])
    if permission is not Permission.PUBLIC:
        if permission.value.in_tenant or Permission.TENANTS_MANAGE is not permission is not Permission.SIGN_UP:
            parameters.append({"$ref": "#/components/parameters/Tenant"})
        if method == "POST":
            parameters.append({"$ref": "#/components/parameters/IdempotencyKey"})
    if not parameters:
        del operation["parameters"]
    kept = {
        status: response
        for status, response in operation["responses"].items()
        if _CODES not in response and status != "422"  # FastAPI's own, which is not how we answer
    }
    for status, response in kept.items():
        response["description"] = HTTPStatus(int(status)).phrase
        response["headers"] = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    for refusal in sorted({PROBLEMS[code].status for code in codes}):
        of_status = [code for code in codes if PROBLEMS[code].status == refusal]
        name = ".".join(of_status)
        responses.setdefault(name, problem_response(of_status))
        kept[str(refusal)] = {"$ref": f"#/components/responses/{name}"}
    operation["responses"] = kept
    for content in _json_contents(operation):
        if "example" not in content and "examples" not in content:
            found = example_of(content["schema"], schemas)
            if found is not None:
                content["example"] = found


def _implied(operation: Mapping[str, Any], method: str, permission: Permission) -> Iterator[str]:
    """The codes that follow from what kind of operation it is."""
    yield from ("bad_request", "credential_in_query", "host_not_allowed", "headers_too_large", "internal")
    if permission is not Permission.PUBLIC:
        yield from ("token_missing", "token_invalid", "forbidden", "tenant_suspended", "not_found")
        yield "database_unavailable"
        if permission.value.in_tenant:
            yield "tenant_required"
        if method == "POST":
            yield from ("idempotency_in_progress", "idempotency_mismatch")
        if method != "GET":
            yield from ("body_too_large", "storage_full")
    if "requestBody" in operation:
        yield from ("malformed_json", "unsupported_media_type")
    yield "validation_failed"  # at the least for a parameter in the query that is not known


def problem_response(codes: list[str]) -> dict[str, Any]:
    """The response object of errors with one status."""
    return {
        "description": "; ".join(f"`{code}`: {PROBLEMS[code].title}" for code in codes),
        "headers": {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}},
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {
                    code: {"summary": PROBLEMS[code].title, "value": _problem_example(code)} for code in codes
                },
            }
        },
    }


def _problem_example(code: str) -> dict[str, Any]:
    return {
        "type": f"{PROBLEM_TYPE_BASE}{code}.md",
        "title": PROBLEMS[code].title,
        "status": PROBLEMS[code].status,
        "detail": "What is wrong this time, and what to do.",
        "instance": "/v1/keys",
        "code": code,
        "request_id": EXAMPLE_REQUEST_ID,
    }


def _json_contents(operation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    for body in bodies:
        content = body.get("content", {}).get("application/json")
        if content is not None:
            yield content


def _restore_examples(schemas: Mapping[str, dict[str, Any]]) -> None:
    """Puts the examples of the models back: FastAPI leaves out what is ``null`` in them."""
    for model in (*_models(Input), *_models(Output)):
        schema = schemas.get(model.__name__, {})
        if "examples" in schema:
            schema["examples"] = cast(Mapping[str, Any], model.model_config["json_schema_extra"])["examples"]


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """The example that ``schema``, or what it refers to, carries; for a page, a page of one."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if schema.get("examples"):
        return schema["examples"][0]
    items = schema.get("properties", {}).get("data", {}).get("items")
    if items is not None:
        return {"data": [example_of(items, schemas)], "has_more": False, "next_cursor": None}
    for choice in schema.get("anyOf", ()):
        found = example_of(choice, schemas)
        if found is not None:
            return found
    return None
