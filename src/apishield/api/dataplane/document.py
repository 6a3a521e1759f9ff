"""The data plane's part of the OpenAPI document. Its schemas are made from the very types that read and write the bytes."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

import msgspec

from apishield.api.gateway.app import ENVOY_PREFIX, NGINX_PATH
from apishield.api.openapi import problem_response
from apishield.core.decision import CheckRequest, Decision, KeyView, LimitState
from apishield.errors import PROBLEMS
from apishield.services.reports import Receipt, Rejection, Report
from apishield.services.settlement import Released

_SCHEMA = "#/components/schemas/{name}"
_REQUEST_ID = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
_DECISION_ID = "dec_01k84edib9e008000100000001cgk2pu574e73g"

_CHECK = {
    "api_key": "sk_live_0123456789abcdefghijABCDEFGHIJ3kTq9Z",
    "ip": "203.0.113.7",
    "method": "GET",
    "path": "/orders/17",
}
_LIMIT = {
    "name": "default",
    "policy_id": None,
    "strategy": "sliding_window",
    "unit": "requests",
    "limit": 1000,
    "remaining": 0,
    "window_seconds": 60,
    "reset_seconds": 12.4,
    "violated": True,
}
_REFUSED = {
    "allowed": False,
    "code": "rate_limited",
    "status": 429,
    "message": "The limit 'default' (1000 requests) is used up. Try again in 13 s.",
    "decision_id": _DECISION_ID,
    "tenant_id": "ten_01k84edib9e008000100000001",
    "key": {
        "id": "key_01k84edib9e008000100000001",
        "name": "Production Key",
        "scopes": ["read"],
        "environment": "live",
        "customer_id": None,
        "metadata": {},
    },
    "limits": [_LIMIT],
    "shadow": [],
    "retry_after": 12.4,
    "headers": {
        "RateLimit-Policy": '"default";q=1000;w=60',
        "RateLimit": '"default";r=0;t=13',
        "X-RateLimit-Limit": "1000",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "1795445733",
        "X-APIShield-Decision": _DECISION_ID,
        "Retry-After": "13",
    },
    "degraded": False,
    "limits_omitted": 0,
}
_REPORT = {"decision_id": _DECISION_ID, "status": 200, "latency_ms": 12.5, "bytes": 5120}


def document() -> dict[str, Any]:
    """Paths and components, to be laid into the control plane's document."""
    return {"paths": _paths(), "components": {"schemas": _schemas(), "securitySchemes": _SECURITY_SCHEMES}}


_SECURITY_SCHEMES = {
    "serviceKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "A service key (`sk_…` of kind `service`) or an owner's token.",
    },
    "gatewayKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-APIShield-Token",
        "description": "The gateway's service key; the gateway overwrites what a client sends under this name.",
    },
}


def _schemas() -> dict[str, Any]:
    types = (CheckRequest, Decision, KeyView, LimitState, Report, Receipt, Rejection, Released)
    _, schemas = msgspec.json.schema_components(types, ref_template=_SCHEMA)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = cleandoc(schema["description"]).replace("``", "`")
        if not schema.get("required"):
            schema.pop("required", None)
    batch = {"type": "array", "maxItems": 1000}
    schemas["CheckBatch"] = _object(checks={**batch, "items": {"$ref": _SCHEMA.format(name="CheckRequest")}})
    schemas["CheckResults"] = _object(results={**batch, "items": {"$ref": _SCHEMA.format(name="Decision")}})
    schemas["Reports"] = _object(events={**batch, "items": {"$ref": _SCHEMA.format(name="Report")}})
    return dict(schemas)


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _paths() -> dict[str, Any]:
    decision_id = {"name": "decision_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/check": {
            "post": _operation(
                "check",
                "Ask whether a request may pass",
                "Always 200: a denial is a value. Every limit, quota and block is decided together, all or nothing.",
                body=("CheckRequest", _CHECK),
                answer=("200", "Decision", _REFUSED),
            )
        },
        "/v1/check/batch": {
            "post": _operation(
                "checkBatch",
                "Ask about up to 1,000 requests",
                "The results are in order; an item that can't be read spoils only itself (`bad_request`).",
                body=("CheckBatch", {"checks": [_CHECK]}),
                answer=("200", "CheckResults", {"results": [_REFUSED]}),
            )
        },
        "/v1/report": {
            "post": _operation(
                "report",
                "Tell what became of decisions",
                "Counted once per decision, however often and to whichever node it is told, within 24 hours. "
                "`cost` settles what a check with `reserve` estimated.",
                body=("Reports", {"events": [_REPORT]}),
                answer=("202", "Receipt", {"accepted": 1, "duplicates": 0, "rejected": []}),
                more=["storage_full"],
            )
        },
        "/v1/decisions/{decision_id}/release": {
            "post": {
                **_operation(
                    "releaseDecision",
                    "Free a decision's slots and give its whole charge back",
                    "Only what is held can be given back: the charge of a check with `reserve`, and concurrency slots. "
                    "Any other check stays charged. `reason` says why nothing was released.",
                    answer=("200", "Released", {"released": True, "reason": None, "message": ""}),
                    more=["not_found", "store_unavailable", "storage_full"],
                ),
                "parameters": [{"$ref": "#/components/parameters/Tenant"}, decision_id],
            }
        },
        NGINX_PATH: {"get": _nginx()},
        f"{ENVOY_PREFIX}/{{path}}": {"get": _envoy()},
    }


def _operation(
    operation_id: str,
    summary: str,
    description: str,
    *,
    answer: tuple[str, str, Any],
    body: tuple[str, Any] | None = None,
    more: list[str] | None = None,
) -> dict[str, Any]:
    status, schema, example = answer
    responses = {
        status: {
            "description": summary,
            "headers": _REQUEST_ID,
            "content": {"application/json": {"schema": {"$ref": _SCHEMA.format(name=schema)}, "example": example}},
        },
        "400": problem_response(["bad_request", "malformed_json", "credential_in_query"]),
        "401": problem_response(["token_missing", "token_invalid"]),
        "403": problem_response(["forbidden", "tenant_suspended"]),
        "404": problem_response(["not_found"]),
        "413": problem_response(["body_too_large"]),
        "415": problem_response(["unsupported_media_type"]),
        "422": problem_response(["validation_failed", "tenant_required"]),
        "431": problem_response(["headers_too_large"]),
        "500": problem_response(["internal"]),
    }
    if more is not None:
        responses |= {str(PROBLEMS[code].status): problem_response([code]) for code in more}
    operation: dict[str, Any] = {
        "tags": ["Checks"],
        "operationId": operation_id,
        "summary": summary,
        "description": description,
        "security": [{"serviceKey": []}],
        "parameters": [{"$ref": "#/components/parameters/Tenant"}],
        "responses": responses,
    }
    if body is not None:
        name, body_example = body
        content = {"schema": {"$ref": _SCHEMA.format(name=name)}, "example": body_example}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _header(name: str, description: str, *, required: bool = False) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def _nginx() -> dict[str, Any]:
    return {
        "tags": ["Checks"],
        "operationId": "checkForNginx",
        "summary": "Answer a subrequest of Nginx's auth_request",
        "description": "Nginx knows 200, 401 and 403; the true status is in `X-APIShield-Status`.",
        "security": [{"gatewayKey": []}],
        "parameters": [
            _header("X-Original-Method", "The request's method.", required=True),
            _header("X-Original-URI", "The request's path; its query is ignored.", required=True),
            _header("X-APIShield-Client-IP", "The client's address, one value."),
            _header("X-API-Key", "The client's key, where it put it (or `Authorization: Bearer sk_…`)."),
        ],
        "responses": {
            "200": {"description": "The request may pass; the headers are for the client."},
            "401": problem_response(["key_missing", "key_malformed", "key_unknown", "key_revoked", "key_expired"]),
            "403": problem_response(
                ["blocked", "scope_missing", "rate_limited", "quota_exceeded", "store_unavailable"]
            ),
        },
    }


def _envoy() -> dict[str, Any]:
    path = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "tags": ["Checks"],
        "operationId": "checkForEnvoy",
        "summary": "Answer Envoy's ext_authz over HTTP",
        "description": "With the client's own method (any), path and headers. Envoy passes every answer on as it is.",
        "security": [{"gatewayKey": []}],
        "parameters": [path, _header("X-APIShield-Client-IP", "The client's address, one value.")],
        "responses": {
            "200": {"description": "The request may pass; the headers are for the client."},
            "400": problem_response(["bad_request"]),
            "401": problem_response(["key_missing", "key_malformed", "key_unknown", "key_revoked", "key_expired"]),
            "403": problem_response(["blocked", "scope_missing", "ip_not_allowed"]),
            "429": problem_response(["rate_limited", "quota_exceeded", "concurrency_exceeded"]),
            "503": problem_response(["store_unavailable", "stale"]),
        },
    }
