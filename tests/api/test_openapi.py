"""The OpenAPI document: complete, with an example for everything, and true to what the service does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from apishield.api.app import create_app, routes
from apishield.errors import PROBLEMS
from tests.api.support import Json, Service

OPERATIONS = {
    "create_tenant", "list_tenants", "get_tenant", "update_tenant", "delete_tenant", "get_own_tenant", "update_own_tenant",
    "create_token", "list_tokens", "revoke_token",
    "create_key", "list_keys", "import_keys", "get_key", "update_key", "delete_key", "revoke_key", "rotate_key",
    "get_key_usage", "reset_key_limits",
    "create_customer", "list_customers", "get_customer", "update_customer", "delete_customer",
    "create_policy", "list_policies", "get_policy", "update_policy", "delete_policy",
    "create_block", "list_blocks", "get_block", "delete_block", "create_allow", "list_allows", "get_allow", "delete_allow",
    "list_audit_entries", "get_liveness", "get_readiness", "get_metrics", "get_version",
}  # fmt: skip
"""What clients are generated from: ids may be added, never renamed."""


@pytest.fixture
def document(service: Service) -> Json:
    return service.document()


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def resolved(document: Json, node: Json) -> Json:
    while "$ref" in node:
        found: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def test_operation_ids_are_those_that_clients_know(document: Json) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert set(ids) >= OPERATIONS


def test_the_document_is_openapi_3_1_and_every_reference_leads_somewhere(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                resolved(document, node)
            for inner in node.values():
                walk(inner)
        elif isinstance(node, list):
            for inner in node:
                walk(inner)

    walk(document)


def test_every_operation_says_what_it_does_and_what_it_needs(document: Json) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        assert "security" in operation, name


def test_every_body_and_answer_has_an_example_that_its_schema_accepts(document: Json) -> None:
    shown = 0
    for name, operation in operations(document):
        for body in (operation.get("requestBody", {}), *operation["responses"].values()):
            for media_type, content in resolved(document, body).get("content", {}).items():
                if not media_type.endswith("json"):
                    continue
                examples = [content["example"]] if "example" in content else []
                examples += [example["value"] for example in content.get("examples", {}).values()]
                assert examples, (name, media_type)
                schema = {**content["schema"], "components": document["components"]}
                for example in examples:
                    jsonschema_rs.validator_for(schema).validate(example)
                    shown += 1
    assert shown > 200


def test_every_operation_lists_its_errors_as_problems(document: Json) -> None:
    for name, operation in operations(document):
        refused = {int(status): body for status, body in operation["responses"].items() if int(status) >= 400}
        if operation["security"] == [{"gatewayKey": []}]:
            assert {401, 403} <= refused.keys(), name  # what the gateway understands
            continue
        assert {400, 431, 500} <= refused.keys(), name
        if operation["security"] == [{"serviceKey": []}]:
            assert {401, 403, 404, 422} <= refused.keys(), name
            continue
        assert 421 in refused, name
        if operation["security"] == [{"token": []}]:
            assert {401, 403, 404, 503} <= refused.keys(), name
        if "requestBody" in operation:
            assert {413, 415, 422} <= refused.keys(), name
        for status, body in refused.items():
            for code in resolved(document, body)["content"].get("application/problem+json", {}).get("examples", {}):
                assert PROBLEMS[code].status == status, (name, code)


def test_that_unknown_fields_are_refused_stands_in_the_document(document: Json) -> None:
    schema = resolved(document, document["components"]["schemas"]["KeyCreate"])
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["name"]


async def test_the_document_is_served(service: Service) -> None:
    assert await service.nobody.ok("GET", "/openapi.json") == service.document()


async def test_operations_in_front_of_the_control_plane_stand_in_the_same_document(service: Service) -> None:
    fragment = {
        "paths": {"/v1/ahead": {"get": {"operationId": "ahead", "responses": {"200": {"description": "OK"}}}}},
        "components": {"schemas": {"Ahead": {"type": "object"}}},
    }
    document = create_app(service.runtime, fragment).openapi()
    assert document["paths"]["/v1/ahead"]["get"]["operationId"] == "ahead"
    assert {"Ahead", "KeyOut"} <= document["components"]["schemas"].keys()


_BOUNDS = {"pattern", "min_length", "max_length", "ge", "le", "gt", "lt", "multiple_of"}


def judged(schema: Any, at: str) -> Iterator[str]:
    """Where a schema of Pydantic's core refuses values of the right type."""
    if isinstance(schema, dict):
        at = schema["cls"].__name__ if schema.get("type") == "model" else at
        if str(schema.get("type")).startswith("function"):
            yield f"{at}: {schema['type']}"
        for name, inner in schema.items():
            if name in _BOUNDS and not isinstance(inner, dict):
                yield f"{at}: {name}"
            elif name not in {"metadata", "serialization", "config"}:
                yield from judged(inner, at)
    elif isinstance(schema, (list, tuple)):
        for inner in schema:
            yield from judged(inner, at)


def test_no_answer_judges_what_is_stored(service: Service) -> None:
    """What was written under other rules must still be shown: one such thing would make its whole list a 500."""
    models = [route.response_field for route in routes() if route.response_field is not None]
    assert len(models) > 40
    assert {fault for model in models for fault in judged(model._type_adapter.core_schema, "")} == set()
