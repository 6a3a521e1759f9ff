"""Two tenants can't see or touch each other: every operation of the OpenAPI document, with the wrong tenant's token and ids.

The walk is generated from the document, so that a new operation is covered by itself. An operation with an id that the walk
does not know fails it, until ``belongings`` makes such a thing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest_asyncio
from sqlalchemy import select

from apishield.api.openapi import example_of
from apishield.stores.sql.tables import metadata
from tests.api.support import Caller, Json, Service, Tenant

REFUSED = {401, 403, 404}
FOR_WHOEVER_HAS_THE_ID = {"get_receipt"}
ENDLESS = {"follow_live"}
"""A stream, which a test must end by itself; ``test_analytics_live`` does, and looks whose events are in it."""


class Operation(NamedTuple):
    """One operation of the document: with a body that it would accept, and the names of the ids in its path."""

    name: str
    method: str
    path: str
    ids: tuple[str, ...]
    body: Any


def operations(document: Json) -> Iterator[Operation]:
    """All operations, the data plane's included."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            placed = [p["name"] for p in operation.get("parameters", ()) if p.get("in") == "path"]
            ids = tuple(name for name in placed if name != "path")  # a gateway's: the client's own path, no id
            if operation["operationId"] in FOR_WHOEVER_HAS_THE_ID | ENDLESS:
                continue
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            body = None
            if content is not None:
                body = content.get("example") or example_of(content["schema"], document["components"]["schemas"])
            yield Operation(operation["operationId"], method.upper(), path, ids, body)


@pytest_asyncio.fixture
async def belongings(alice: Tenant) -> dict[str, str]:
    """One of everything that a tenant can own, by the name of its id in a path."""
    customer = await alice.ok("POST", "/v1/customers", {"name": "alices customer"}, status=201)
    key = await alice.key(name="alices key", customer_id=customer["id"], metadata={"private": "alices metadata"})
    token = await alice.ok("POST", "/v1/tokens", {"name": "alices token", "role": "viewer"}, status=201)
    policy = await alice.ok(
        "POST", "/v1/policies", {"name": "alices policy", "per": ["ip"], "limit": "5/minute"}, status=201
    )
    endpoint = await alice.ok("POST", "/v1/endpoints", {"method": "GET", "path": "/alices/path"}, status=201)
    block = await alice.ok("POST", "/v1/blocklist", {"ip": "198.51.100.7", "reason": "alices block"}, status=201)
    allow = await alice.ok("POST", "/v1/allowlist", {"ip": "198.51.100.8", "reason": "alices allow"}, status=201)
    replay = await alice.ok("POST", "/v1/policies/replay", {"limit": "5/minute", "from": "now-1h"})
    decision = await alice.ok("POST", "/v1/check", {"method": "GET", "reserve": True})
    return {
        "decision_id": decision["decision_id"],
        "replay_id": replay["id"],
        "path": "alices/path",
        "tenant_id": alice.id,
        "customer_id": customer["id"],
        "key_id": key["id"],
        "token_id": token["id"],
        "policy_id": policy["id"],
        "endpoint_id": endpoint["id"],
        "block_id": block["id"],
        "allow_id": allow["id"],
    }


async def state(service: Service, tenant_id: str) -> dict[str, list[Any]]:
    """Every row of the tenant, in every table that has tenants."""
    found: dict[str, list[Any]] = {}
    await service.runtime.usage.flush()  # what was noted of the tenant's own use
    await service.runtime.freshness.wait()  # and what is not in the ledger yet
    async with service.runtime.database.engine.connect() as connection:
        for table in metadata.sorted_tables:
            if "tenant_id" in table.c:
                rows = await connection.execute(select(table).where(table.c.tenant_id == tenant_id))
                found[table.name] = sorted(map(repr, rows))
        found["tenants"] = [repr(row) for row in await connection.execute(select(metadata.tables["tenants"]))]
    found["tenants"] = [row for row in found["tenants"] if tenant_id in row]
    return found


def fill(operation: Operation, belongings: dict[str, str]) -> str:
    missing = set(operation.ids) - belongings.keys()
    assert not missing, f"{operation.name} has the ids {missing}, which the walk can't make; teach `belongings`"
    return operation.path.format(**belongings)


async def test_no_operation_reaches_another_tenants_thing_by_its_id(
    service: Service, alice: Tenant, bob: Tenant, belongings: dict[str, str]
) -> None:
    before = await state(service, alice.id)
    assert all(
        before[name] for name in ("keys", "tokens", "customers", "policies", "endpoints", "blocks", "audit_entries")
    )
    walked = 0
    for operation in operations(service.document()):
        if operation.ids:
            path = fill(operation, belongings)
            response = await bob.ask(operation.method, path, operation.body)
            assert response.status_code in REFUSED, (operation.name, response.status_code, response.text)
            walked += 1
    assert walked >= 18
    assert await state(service, alice.id) == before


async def test_another_tenants_thing_and_one_that_never_was_get_the_same_answer(
    service: Service, bob: Tenant, belongings: dict[str, str]
) -> None:
    never = {name: value[:4] + "0" * 26 for name, value in belongings.items()}

    def plain(problem: Json, ids: dict[str, str]) -> str:
        text = json.dumps({name: problem[name] for name in problem if name != "request_id"})
        for name, value in ids.items():
            text = text.replace(value, name)
        return text

    for operation in operations(service.document()):
        if operation.ids:
            foreign = (await bob.ask(operation.method, fill(operation, belongings), operation.body)).json()
            unknown = (await bob.ask(operation.method, fill(operation, never), operation.body)).json()
            assert plain(foreign, belongings) == plain(unknown, never), operation.name


async def test_no_list_and_no_answer_shows_another_tenants_things(
    service: Service, alice: Tenant, bob: Tenant, belongings: dict[str, str]
) -> None:
    private = [*belongings.values(), alice.secret, alice.service_key, "alices", "198.51.100.7", "198.51.100.8"]
    before = await state(service, alice.id)
    asked = [operation for operation in operations(service.document()) if not operation.ids]
    viewer = await bob.viewer()
    for operation in asked:
        if operation.path == "/metrics":
            continue  # the service's own, for whoever runs it
        for caller in (bob, viewer, Caller(service.client, bob.service_key), service.nobody):
            response = await caller.ask(operation.method, operation.path, operation.body)
            no_gateway = operation.name == "checkForEnvoy" and response.status_code == 503
            assert response.status_code < 500 or no_gateway, (operation.name, response.text)
            shown = [secret for secret in private if secret in response.text]
            assert not shown, (operation.name, shown)
    assert await state(service, alice.id) == before


async def test_no_body_ties_a_thing_to_another_tenants_thing(
    alice: Tenant, bob: Tenant, belongings: dict[str, str]
) -> None:
    foreign = belongings["customer_id"]
    await bob.problem(422, "validation_failed", "POST", "/v1/keys", {"name": "k", "customer_id": foreign})
    own = await bob.key()
    await bob.problem(422, "validation_failed", "PATCH", f"/v1/keys/{own['id']}", {"customer_id": foreign})
    imported = await bob.ok(
        "POST", "/v1/keys/import", {"keys": [{"name": "k", "key": "x" * 30, "customer_id": foreign}]}
    )
    assert imported["imported"] == 0


async def test_a_cursor_of_one_tenant_shows_another_only_its_own(alice: Tenant, bob: Tenant) -> None:
    for number in range(3):
        await alice.key(name=f"alices {number}")
        await bob.key(name=f"bobs {number}")
    page = await alice.ok("GET", "/v1/keys?limit=1")
    shown = await bob.ok("GET", f"/v1/keys?limit=100&cursor={page['next_cursor']}")
    assert not [key["name"] for key in shown["data"] if key["name"].startswith("alices")]


async def test_a_block_of_one_tenant_is_not_anothers(alice: Tenant, bob: Tenant) -> None:
    await alice.ok("POST", "/v1/blocklist", {"ip": "203.0.113.50"}, status=201)
    question = {"ip": "203.0.113.50", "method": "GET", "path": "/"}
    refused = await Caller(alice.client, alice.service_key).ok("POST", "/v1/check", question)
    allowed = await Caller(bob.client, bob.service_key).ok("POST", "/v1/check", question)
    assert (refused["code"], allowed["code"]) == ("blocked", "ok")
