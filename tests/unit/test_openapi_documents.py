"""What an OpenAPI document says of endpoints, and what is wrong with one that can't be read."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from apishield.core.openapi_documents import DocumentError, Operation, operations


def document(paths: Any, **more: Any) -> dict[str, Any]:
    return {"openapi": "3.1.0", "paths": paths, **more}


def only(paths: Any, **more: Any) -> Operation:
    (operation,) = operations(document(paths, **more))
    return operation


def test_operations_come_with_their_place_method_and_path() -> None:
    paths = {
        "/orders/{id}": {"get": {}, "parameters": [], "delete": {}, "x-other": 1},
        "x-webhooks": {},
        "/a": {"post": {}},
    }
    found = list(operations(document(paths)))
    assert [(each.method, each.path) for each in found] == [
        ("GET", "/orders/{id}"),
        ("DELETE", "/orders/{id}"),
        ("POST", "/a"),
    ]
    assert found[0].pointer == "/paths/~1orders~1{id}/get"


@pytest.mark.parametrize(
    ("more", "base"),
    [
        ({}, ""),
        ({"servers": []}, ""),
        ({"servers": [{"url": "/"}]}, ""),
        ({"servers": [{"url": "https://api.example.com/v1/"}]}, "/v1"),
        ({"servers": [{"url": "https://{region}.example.com/{v}", "variables": {"v": {"default": "v2"}}}]}, "/v2"),
        ({"servers": [{"url": "https://live.example.com/v1"}, {"url": "https://test.example.com/v1"}]}, "/v1"),
        ({"openapi": None, "swagger": "2.0", "basePath": "/v3"}, "/v3"),
    ],
)
def test_paths_begin_with_the_base_path_of_the_servers(more: dict[str, Any], base: str) -> None:
    whole = {name: value for name, value in document({"/a": {"get": {}}}, **more).items() if value is not None}
    (operation,) = operations(whole)
    assert operation.path == f"{base}/a"
    (operation,) = operations(whole, base_path="/given/")
    assert operation.path == "/given/a"


def test_of_a_path_without_a_slash_no_other_path_is_made() -> None:
    assert only({"orders": {"get": {}}}, servers=[{"url": "https://a.example/v1"}]).path == "orders"


@pytest.mark.parametrize(
    ("security", "method", "required"),
    [
        ([{"oauth": ["orders:read"]}], "get", ("orders:read",)),
        ([{"oauth": ["a", "b"], "other": ["b", "c"]}], "get", ("a", "b", "c")),
        ([{"first": ["a", "b"]}, {"second": ["b", "a"]}], "get", ("a", "b")),
        ([{"key": []}], "get", ("read",)),
        ([{"key": []}], "post", ("write",)),
        ([], "get", ()),
        ([{}, {"oauth": ["a"]}], "get", ()),
    ],
)
def test_security_becomes_the_scopes_that_are_required(security: Any, method: str, required: tuple[str, ...]) -> None:
    assert only({"/a": {method: {"security": security}}}).required_scopes == required
    inherited = only({"/a": {method: {}}}, security=security).required_scopes
    assert inherited == (required if security else UNSET)  # without a word on security nothing is said


def test_an_operations_own_security_takes_the_place_of_the_documents() -> None:
    assert only({"/a": {"get": {"security": []}}}, security=[{"oauth": ["a"]}]).required_scopes == ()


def test_alternatives_with_different_scopes_must_be_settled_by_hand() -> None:
    security = [{"oauth": ["a"]}, {"oauth": ["b"]}]
    (fault,) = only({"/a": {"get": {"security": security}}}).faults
    assert fault.pointer == "/paths/~1a/get/security"
    assert "x-apishield-required-scopes" in fault.message
    settled = only({"/a": {"get": {"security": security, "x-apishield-required-scopes": ["b"]}}})
    assert (settled.required_scopes, settled.faults) == (("b",), ())


def test_path_items_may_be_references_within_the_document() -> None:
    items = {"pathItems": {"A": {"$ref": "#/components/pathItems/B~1C"}, "B/C": {"get": {}}}}
    assert only({"/a": {"$ref": "#/components/pathItems/A"}}, components=items).method == "GET"
    for reference in ("other.json#/a", "#/components/pathItems/None", "#/components/pathItems/Circle", 7):
        circle = {"pathItems": {"Circle": {"$ref": "#/components/pathItems/Circle"}}}
        (fault,) = only({"/a": {"$ref": reference}}, components=circle).faults
        assert fault.pointer == "/paths/~1a"


@pytest.mark.parametrize(
    ("broken", "pointer"),
    [
        ({}, ""),
        ({"openapi": "2.9", "paths": {}}, ""),
        ({"openapi": 3.1, "paths": {}}, ""),
        ({"swagger": "1.2", "paths": {}}, ""),
        ({"openapi": "3.0.3"}, "/paths"),
        ({"openapi": "3.0.3", "paths": []}, "/paths"),
        ({"openapi": "3.0.3", "paths": {}, "servers": {}}, "/servers"),
        ({"openapi": "3.0.3", "paths": {}, "servers": [{"url": 7}]}, "/servers"),
        ({"openapi": "3.0.3", "paths": {}, "servers": [{"url": "https://[::1/v1"}]}, "/servers"),
        ({"openapi": "3.0.3", "paths": {}, "servers": [{"url": "/v1"}, {"url": "/v2"}]}, "/servers"),
        ({"swagger": "2.0", "paths": {}, "basePath": 7}, "/basePath"),
    ],
)
def test_what_is_no_such_document_is_refused_by_its_place(broken: dict[str, Any], pointer: str) -> None:
    with pytest.raises(DocumentError) as caught:
        list(operations(broken))
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    "operation", [None, [], {"security": {}}, {"security": [7]}, {"security": [{"a": "b"}]}, {"security": [{"a": [7]}]}]
)
def test_an_operation_that_can_not_be_read_spoils_only_itself(operation: Any) -> None:
    found = list(operations(document({"/a": {"get": operation, "post": {}}})))
    assert [bool(each.faults) for each in found] == [True, False]
