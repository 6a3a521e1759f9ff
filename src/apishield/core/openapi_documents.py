"""Reads the operations of an OpenAPI document (3.0, 3.1) or of a Swagger 2.0 one, as far as they make endpoints.

Sources: OpenAPI Specification 3.0.4 and 3.1.1 (paths, servers, security requirements), Swagger 2.0 (``basePath``). Only
references within the document are followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from msgspec import UNSET, UnsetType

from apishield.core.key_manager.scopes import default_scope
from apishield.errors import Fault

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SCOPES, COST, LOGIN = "x-apishield-required-scopes", "x-apishield-cost", "x-apishield-login"

_MOST_REFERENCES = 8

Object = Mapping[str, Any]


class DocumentError(ValueError):
    """The document as a whole can't be used. ``pointer`` says where."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer


class Operation(NamedTuple):
    """One operation. What the document does not say is ``UNSET``; ``faults`` say what could not be read."""

    pointer: str
    method: str
    path: str
    required_scopes: tuple[str, ...] | UnsetType
    cost: Any
    login: Any
    faults: tuple[Fault, ...]


def operations(document: Object, base_path: str | None = None) -> Iterator[Operation]:
    """All operations, in the order of the document. Their paths begin with ``base_path``, or else with the first server's.

    Raises ``DocumentError`` where the document is none, or where its servers have several base paths.
    """
    version = document.get("openapi", document.get("swagger"))
    if not (isinstance(version, str) and (version.startswith(("3.0", "3.1")) or version == "2.0")):
        raise DocumentError("", "is no OpenAPI 3.0 or 3.1 document, and no Swagger 2.0 one: it has no such version")
    paths = document.get("paths")
    if not isinstance(paths, dict):
        raise DocumentError("/paths", "must be an object")
    base = _base_path(document) if base_path is None else base_path
    for path, item in paths.items():
        if path.startswith("x-"):
            continue
        at = f"/paths/{_escaped(path)}"
        found = _resolved(document, item)
        if found is None:
            fault = Fault(at, "must be an object, or a reference within the document")
            yield Operation(at, "*", path, UNSET, UNSET, UNSET, (fault,))
            continue
        for method in METHODS:
            if method in found:
                whole = (
                    base.rstrip("/") + path if path.startswith("/") else path
                )  # which is then refused for what it is
                yield _operation(document, f"{at}/{method}", method, whole, found[method])


def _operation(document: Object, at: str, method: str, path: str, operation: Any) -> Operation:
    if not isinstance(operation, dict):
        fault = Fault(at, "must be an object")
        return Operation(at, method.upper(), path, UNSET, UNSET, UNSET, (fault,))
    faults: list[Fault] = []
    scopes: tuple[str, ...] | UnsetType = UNSET
    try:
        if SCOPES in operation:
            scopes = _texts(operation[SCOPES])
        elif "security" in operation:
            scopes = _required(operation["security"], method)
        elif document.get("security"):
            scopes = _required(document["security"], method)
    except ValueError as error:
        faults.append(Fault(f"{at}/{SCOPES if SCOPES in operation else 'security'}", str(error)))
    cost, login = operation.get(COST, UNSET), operation.get(LOGIN, UNSET)
    return Operation(at, method.upper(), path, scopes, cost, login, tuple(faults))


def _required(security: Any, method: str) -> tuple[str, ...]:
    """The scopes that a list of alternatives asks for; none where one of them asks for nothing at all.

    One that asks for a credential and names no scopes comes to the method's default scope: a key is needed.
    """
    if not (isinstance(security, list) and all(isinstance(requirement, dict) for requirement in security)):
        raise ValueError("must be a list of objects")
    if not security or {} in security:
        return ()
    alternatives = [
        tuple(dict.fromkeys(scope for scopes in requirement.values() for scope in _texts(scopes)))
        for requirement in security
    ]
    if len({frozenset(scopes) for scopes in alternatives}) > 1:
        raise ValueError(f"has alternatives with different scopes; say which are required in {SCOPES}")
    return alternatives[0] or (default_scope(method),)


def _texts(value: Any) -> tuple[str, ...]:
    if not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        raise ValueError("must be a list of scopes")
    return tuple(value)


def _base_path(document: Object) -> str:
    if "swagger" in document:
        base = document.get("basePath", "/")
        if not isinstance(base, str):
            raise DocumentError("/basePath", "must be a text")
        return base
    servers = document.get("servers", [])
    if not (isinstance(servers, list) and all(isinstance(server, dict) for server in servers)):
        raise DocumentError("/servers", "must be a list of objects")
    found = {_server_path(server).rstrip("/") for server in servers}
    if len(found) > 1:
        raise DocumentError("/servers", "have several base paths; say which with ?base_path=")
    return found.pop() if found else ""


def _server_path(server: Object) -> str:
    url, variables = server.get("url", "/"), server.get("variables", {})
    if not (isinstance(url, str) and isinstance(variables, dict)):
        raise DocumentError("/servers", "must have a url, and variables that are an object")
    for name, variable in variables.items():
        if isinstance(variable, dict):
            url = url.replace("{" + name + "}", str(variable.get("default", "")))
    try:
        return urlsplit(url).path
    except ValueError as error:
        raise DocumentError("/servers", "must have a url that can be read") from error


def _resolved(document: Object, item: Any) -> Object | None:
    """The path item, also where it is a reference (or a reference to one …) within the document."""
    for _ in range(_MOST_REFERENCES):
        if not isinstance(item, dict):
            return None
        reference = item.get("$ref")
        if reference is None:
            return item
        if not (isinstance(reference, str) and reference.startswith("#/")):
            return None
        item = document
        for part in unquote(reference[2:]).split("/"):
            item = item.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(item, dict) else None
    return None


def _escaped(name: str) -> str:
    """``name`` as one step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
