"""Idempotency keys: a request takes effect once, its answer comes again, and to nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from apishield.errors import ProblemError
from tests.api.support import Caller, Service, Tenant

ONCE = {"Idempotency-Key": "order-4711"}


async def names(tenant: Tenant) -> list[str]:
    return [key["name"] for key in (await tenant.ok("GET", "/v1/keys?limit=100"))["data"]]


async def test_the_same_request_again_gets_the_same_answer_with_its_secret_and_makes_nothing(alice: Tenant) -> None:
    first = await alice.ask("POST", "/v1/keys", {"name": "k"}, headers=ONCE)
    again = await alice.ask("POST", "/v1/keys", {"name": "k"}, headers=ONCE)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["key"] == again.json()["key"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert (await names(alice)).count("k") == 1


async def test_another_spelling_of_the_same_body_is_the_same_request(alice: Tenant) -> None:
    first = await alice.ok("POST", "/v1/keys", b'{"name": "k", "enabled": true}', status=201, headers=ONCE)
    again = await alice.ok("POST", "/v1/keys", b'{"enabled":true,\n"name":"k"}', status=201, headers=ONCE)
    assert first == again


async def test_another_body_under_the_same_key_is_refused(alice: Tenant) -> None:
    await alice.ok("POST", "/v1/keys", {"name": "k"}, status=201, headers=ONCE)
    await alice.problem(422, "idempotency_mismatch", "POST", "/v1/keys", {"name": "other"}, headers=ONCE)
    assert "other" not in await names(alice)


async def test_the_same_route_for_another_object_is_another_request(alice: Tenant) -> None:
    one, two = await alice.key(), await alice.key()
    await alice.ok("POST", f"/v1/keys/{one['id']}/rotate", headers=ONCE)
    await alice.problem(422, "idempotency_mismatch", "POST", f"/v1/keys/{two['id']}/rotate", headers=ONCE)


async def test_a_key_is_kept_by_tenant_credential_and_route(service: Service, alice: Tenant, bob: Tenant) -> None:
    second = await alice.ok("POST", "/v1/tokens", {"name": "Second", "role": "owner"}, status=201)
    secrets = set()
    for caller in (alice, bob, Caller(service.client, second["token"])):
        made = await caller.ok("POST", "/v1/keys", {"name": "k"}, status=201, headers=ONCE)
        secrets.add(made["key"])
    assert len(secrets) == 3
    await alice.ok("POST", "/v1/customers", {"name": "k"}, status=201, headers=ONCE)
    operator = service.operator.acting(**{"X-APIShield-Tenant": alice.id})
    elsewhere = service.operator.acting(**{"X-APIShield-Tenant": bob.id})
    made_here = await operator.ok("POST", "/v1/keys", {"name": "k"}, status=201, headers=ONCE)
    made_there = await elsewhere.ok("POST", "/v1/keys", {"name": "k"}, status=201, headers=ONCE)
    assert made_here["key"] != made_there["key"]


async def test_a_kept_answer_is_given_only_after_a_fresh_authorization(service: Service, alice: Tenant) -> None:
    made = await alice.ok("POST", "/v1/tokens", {"name": "Short-lived", "role": "owner"}, status=201)
    other = Caller(service.client, made["token"])
    await other.ok("POST", "/v1/keys", {"name": "k"}, status=201, headers=ONCE)
    await alice.ok("DELETE", f"/v1/tokens/{made['id']}", status=204)
    await other.problem(401, "token_invalid", "POST", "/v1/keys", {"name": "k"}, headers=ONCE)


async def test_two_strangers_with_the_same_key_at_an_open_sign_up_get_tenants_of_their_own(service: Service) -> None:
    first = await service.nobody.ok("POST", "/v1/tenants", {"name": "x"}, status=201, headers=ONCE)
    second = await service.nobody.ok("POST", "/v1/tenants", {"name": "x"}, status=201, headers=ONCE)
    assert first["id"] != second["id"]
    assert first["token"] != second["token"]


async def test_a_refused_request_is_not_kept_so_it_can_be_mended(alice: Tenant) -> None:
    await alice.problem(422, "validation_failed", "POST", "/v1/keys", {"name": ""}, headers=ONCE)
    await alice.problem(422, "validation_failed", "POST", "/v1/keys", {"name": "k", "customer_id": "x"}, headers=ONCE)
    await alice.ok("POST", "/v1/keys", {"name": "k"}, status=201, headers=ONCE)


async def test_a_request_that_failed_inside_is_never_run_again(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = service.runtime.keys.create

    async def create_and_fail(*given: Any) -> Any:
        await create(*given)
        raise RuntimeError

    monkeypatch.setattr(service.runtime.keys, "create", create_and_fail)
    await alice.problem(500, "internal", "POST", "/v1/keys", {"name": "k"}, headers=ONCE)
    monkeypatch.undo()
    problem = await alice.problem(409, "idempotency_in_progress", "POST", "/v1/keys", {"name": "k"}, headers=ONCE)
    assert "took effect" in problem["detail"]
    assert (await names(alice)).count("k") == 1


@pytest.mark.parametrize(
    ("failure", "then"), [("database_unavailable", 409), ("storage_full", 201)], ids=["may have run", "did not run"]
)
async def test_a_request_that_the_database_failed_is_run_again_only_where_it_surely_took_no_effect(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch, failure: str, then: int
) -> None:
    async def fail(*_: Any) -> Any:
        raise ProblemError(failure, "as the database says it")

    monkeypatch.setattr(service.runtime.keys, "create", fail)
    assert (await alice.ask("POST", "/v1/keys", {"name": "k"}, headers=ONCE)).json()["code"] == failure
    monkeypatch.undo()
    assert (await alice.ask("POST", "/v1/keys", {"name": "k"}, headers=ONCE)).status_code == then


async def test_of_two_at_once_one_runs_and_the_other_waits_or_gets_its_answer(alice: Tenant) -> None:
    answers = await asyncio.gather(
        *(alice.ask("POST", "/v1/keys", {"name": "k"}, headers=ONCE) for _ in range(8)),
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["key"] for answer in answers if answer.status_code == 201}) == 1
    assert (await names(alice)).count("k") == 1


async def test_a_key_is_forgotten_after_24_hours(service: Service, alice: Tenant) -> None:
    first = await alice.ok("POST", "/v1/keys", {"name": "k"}, status=201, headers=ONCE)
    service.clock.advance(24 * 3600)
    again = await alice.ok("POST", "/v1/keys", {"name": "k"}, status=201, headers=ONCE)
    assert first["id"] != again["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\tkey"])
async def test_a_key_that_is_no_key_is_422(alice: Tenant, key: str) -> None:
    await alice.problem(422, "validation_failed", "POST", "/v1/keys", {"name": "k"}, headers={"Idempotency-Key": key})


async def test_on_other_methods_and_on_the_data_plane_the_header_is_ignored(alice: Tenant) -> None:
    made = await alice.key()
    for name in ("a", "b"):
        changed = await alice.ok("PATCH", f"/v1/keys/{made['id']}", {"name": name}, headers=ONCE)
        assert changed["name"] == name
    caller = Caller(alice.client, alice.service_key, **ONCE)
    first = await caller.ok("POST", "/v1/check", {"method": "GET", "path": "/"})
    second = await caller.ok("POST", "/v1/check", {"method": "GET", "path": "/"})
    assert first["decision_id"] != second["decision_id"]


async def test_neither_the_answer_nor_the_key_lies_in_the_database_in_clear(service: Service, alice: Tenant) -> None:
    made = await alice.ok(
        "POST", "/v1/keys", {"name": "k"}, status=201, headers={"Idempotency-Key": "canary-idempotency-key"}
    )
    raw = b"".join(path.read_bytes() for path in service.runtime.settings.data_dir.glob("apishield.db*"))
    assert made["id"].encode() in raw  # the search itself works
    for secret in (made["key"], "canary-idempotency-key", alice.secret):
        assert secret.encode() not in raw
