"""Tokens over HTTP: shown once, never more than their maker, listed, revoked."""

from __future__ import annotations

from apishield.api.times import to_rfc3339
from tests.api.support import Caller, Service, Tenant


async def test_a_token_is_shown_once_and_listed_without_its_secret(service: Service, alice: Tenant) -> None:
    service.clock.advance(1)
    made = await alice.ok("POST", "/v1/tokens", {"name": "CI", "role": "owner"}, status=201)
    assert made["token"].startswith("ast_")
    assert (made["status"], made["expires_at"], made["last_used_at"]) == ("active", None, None)
    response = await alice.ask("GET", "/v1/tokens")
    assert made["token"] not in response.text
    assert [token["name"] for token in response.json()["data"]] == ["CI", "First token"]
    assert {"token", "key"}.isdisjoint(response.json()["data"][0])


async def test_a_token_can_do_no_more_than_its_role(alice: Tenant) -> None:
    viewer = await alice.viewer()
    await viewer.ok("GET", "/v1/keys")
    await viewer.problem(403, "forbidden", "POST", "/v1/tokens", {"name": "x", "role": "viewer"})


async def test_a_service_key_does_not_outlive_the_token_that_makes_changes_or_rotates_it(
    service: Service, alice: Tenant
) -> None:
    end, later = "2026-12-01T00:00:00Z", "2026-12-01T00:00:01Z"
    made = await alice.ok("POST", "/v1/tokens", {"name": "Short", "role": "owner", "expires_at": end}, status=201)
    short = Caller(service.client, made["token"])
    fields = {"name": "SDK", "kind": "service"}
    key = await short.ok("POST", "/v1/keys", fields, status=201)
    assert key["expires_at"] == end
    for method, path, body in (
        ("POST", "/v1/keys", {**fields, "expires_at": later}),
        ("PATCH", f"/v1/keys/{key['id']}", {"expires_at": later}),
        ("PATCH", f"/v1/keys/{key['id']}", {"expires_at": None}),
    ):
        problem = await short.problem(422, "validation_failed", method, path, body)
        assert problem["errors"][0]["pointer"] == "/expires_at"
    await short.ok("POST", f"/v1/keys/{key['id']}/rotate")
    await short.problem(403, "forbidden", "POST", f"/v1/keys/{alice.service_key_id}/rotate")
    await short.ok("PATCH", f"/v1/keys/{alice.service_key_id}", {"name": "renamed"})
    await alice.ok("POST", f"/v1/keys/{alice.service_key_id}/rotate")
    callers = await short.ok("POST", "/v1/keys", {"name": "Caller"}, status=201)
    assert callers["expires_at"] is None


async def test_a_token_does_not_outlive_the_one_that_makes_it(service: Service, alice: Tenant) -> None:
    short = await alice.ok(
        "POST", "/v1/tokens", {"name": "Short", "role": "owner", "expires_at": "2026-12-01T00:00:00Z"}, status=201
    )
    maker = Caller(service.client, short["token"])
    problem = await maker.problem(
        422,
        "validation_failed",
        "POST",
        "/v1/tokens",
        {"name": "x", "role": "owner", "expires_at": "2026-12-01T00:00:00.000001Z"},
    )
    assert problem["errors"][0]["pointer"] == "/expires_at"
    inherited = await maker.ok("POST", "/v1/tokens", {"name": "x", "role": "owner"}, status=201)
    assert inherited["expires_at"] == "2026-12-01T00:00:00Z"


async def test_a_token_remembers_when_it_was_last_used_here_and_not_when_it_was_refused(
    service: Service, alice: Tenant
) -> None:
    made = await alice.ok("POST", "/v1/tokens", {"name": "CI", "role": "viewer"}, status=201)

    async def last_used() -> str | None:
        await service.runtime.usage.flush()
        tokens = {token["id"]: token for token in (await alice.ok("GET", "/v1/tokens"))["data"]}
        value: str | None = tokens[made["id"]]["last_used_at"]
        return value

    caller = Caller(service.client, made["token"])
    await caller.problem(403, "forbidden", "POST", "/v1/keys", {"name": "x"})
    assert await last_used() is None
    service.clock.advance(60)
    used_at = to_rfc3339(service.clock.now_us)
    await caller.ok("GET", "/v1/keys")
    service.clock.advance(60)
    assert await last_used() == used_at


async def test_there_is_no_operators_token_to_be_made(alice: Tenant) -> None:
    await alice.problem(422, "validation_failed", "POST", "/v1/tokens", {"name": "x", "role": "operator"})


async def test_revoking_twice_is_as_once_and_the_record_stays(alice: Tenant) -> None:
    made = await alice.ok("POST", "/v1/tokens", {"name": "x", "role": "viewer"}, status=201)
    for _ in range(2):
        await alice.ok("DELETE", f"/v1/tokens/{made['id']}", status=204)
    shown = next(t for t in (await alice.ok("GET", "/v1/tokens"))["data"] if t["id"] == made["id"])
    assert shown["status"] == "revoked"


async def test_an_expired_token_says_so(service: Service, alice: Tenant) -> None:
    made = await alice.ok(
        "POST", "/v1/tokens", {"name": "x", "role": "viewer", "expires_at": "2026-11-18T11:10:00Z"}, status=201
    )
    service.clock.advance(3600)
    statuses = {token["id"]: token["status"] for token in (await alice.ok("GET", "/v1/tokens"))["data"]}
    assert statuses.pop(made["id"]) == "expired"
    assert set(statuses.values()) == {"active"}


async def test_the_hundredth_token_is_the_last(alice: Tenant) -> None:
    for number in range(99):
        await alice.ok("POST", "/v1/tokens", {"name": f"{number}", "role": "viewer"}, status=201)
    await alice.problem(422, "ceiling_reached", "POST", "/v1/tokens", {"name": "x", "role": "viewer"})
