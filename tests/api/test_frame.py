"""The frame around every request: ids, bounds, hosts, headers, the last net."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog.testing

from apishield.errors import StoreFull, StoreUnavailable
from tests.api.support import Caller, Service, Tenant, problem_of, serving
from tests.support.clock import ManualClock


async def test_a_sane_request_id_is_taken_over_and_any_other_replaced(service: Service) -> None:
    given = await service.nobody.ask("GET", "/livez", headers={"X-Request-Id": "order-4711_a.b"})
    assert given.headers["x-request-id"] == "order-4711_a.b"
    for strange in ("short", "x" * 129, "with blank in it", 'quote"d-12345', "tab\t-12345678"):
        made = await service.nobody.ask("GET", "/livez", headers={"X-Request-Id": strange})
        assert made.headers["x-request-id"].startswith("req_")


async def test_an_unknown_path_is_a_problem_document(service: Service) -> None:
    problem = await service.nobody.problem(404, "not_found", "GET", "/v1/nothing")
    assert problem["instance"] == "/v1/nothing"


async def test_a_wrong_method_is_told_all_that_are_possible(service: Service) -> None:
    response = await service.nobody.ask("PUT", "/v1/keys")
    problem_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/check", "POST"),
        ("PUT", "/v1/check/batch", "POST"),
        ("GET", "/v1/report", "POST"),
        ("DELETE", f"/v1/decisions/dec_{'0' * 26}/release", "POST"),
        ("POST", "/gateway/nginx", "GET"),
    ],
)
async def test_a_wrong_method_on_the_data_plane_is_told_the_one_that_is_possible(
    service: Service, method: str, path: str, allowed: str
) -> None:
    response = await service.nobody.ask(method, path)
    problem_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allowed


async def test_head_is_get_without_the_body(service: Service, alice: Tenant) -> None:
    got, asked = await alice.ask("GET", "/v1/keys"), await alice.ask("HEAD", "/v1/keys")
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == got.headers["content-length"]
    assert (await service.nobody.ask("HEAD", "/livez")).status_code == 200
    assert (await service.nobody.ask("HEAD", "/v1/keys")).status_code == 401
    assert (await alice.ask("HEAD", "/v1/keys/import")).status_code == 404


async def test_a_store_without_room_is_503_and_not_a_failure(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreFull("the memory store is full")

    monkeypatch.setattr(service.runtime.store, "decide", full)
    await service.nobody.problem(503, "store_unavailable", "POST", "/v1/tenants", {"name": "x"})


async def test_what_is_wrong_with_the_store_is_logged_and_not_told(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "Redis can't be reached: Error 111 connecting to redis.internal:6379."

    def lost(*_: object) -> None:
        raise StoreUnavailable(reason)

    monkeypatch.setattr(service.runtime.store, "decide", lost)
    with structlog.testing.capture_logs() as entries:
        problem = await service.nobody.problem(503, "store_unavailable", "POST", "/v1/tenants", {"name": "x"})
    assert problem["detail"] == "The counters can't be reached now. Try again in a few seconds."
    assert [entry["reason"] for entry in entries if entry["event"] == "store.unavailable"] == [reason]


async def test_an_announced_body_over_one_mebibyte_is_refused_before_it_is_read(alice: Tenant) -> None:
    async def unread() -> AsyncIterator[bytes]:
        yield b"{"
        raise AssertionError("the body was read")

    headers = {**alice.headers, "Content-Type": "application/json", "Content-Length": str(1024 * 1024 + 1)}
    problem_of(await alice.client.post("/v1/keys", content=unread(), headers=headers), 413, "body_too_large")


async def test_a_streamed_body_over_one_mebibyte_is_refused_too(alice: Tenant) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b" " * 65_536

    response = await alice.client.post(
        "/v1/keys", content=chunks(), headers={**alice.headers, "Content-Type": "application/json"}
    )
    problem_of(response, 413, "body_too_large")


async def test_a_body_of_just_one_mebibyte_is_read(alice: Tenant) -> None:
    body = b'{"name": "k"' + b" " * (1024 * 1024 - 13) + b"}"
    assert len(body) == 1024 * 1024
    await alice.ok("POST", "/v1/keys", body, status=201)


async def test_headers_over_32_kib_are_refused(service: Service) -> None:
    await service.nobody.problem(431, "headers_too_large", "GET", "/v1/keys", headers={"Cookie": "a" * 65_536})


@pytest.mark.parametrize(
    "query",
    ["api_key=x", "a=1&token=x", "access_token=x", "API-KEY=x", "key=sk_live_" + "a" * 36, "q=ast_" + "b" * 36],
)
async def test_a_credential_in_the_query_string_is_refused(alice: Tenant, query: str) -> None:
    await alice.problem(400, "credential_in_query", "GET", f"/v1/keys?{query}")


async def test_answers_carry_security_headers_and_no_cors(service: Service) -> None:
    response = await service.nobody.ask("GET", "/livez", headers={"Origin": "https://evil.example"})
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert not [name for name in response.headers if name.startswith("access-control-")]
    await service.nobody.problem(405, "method_not_allowed", "OPTIONS", "/v1/keys")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:8000", "LOCALHOST:8000", "app.localhost"])
async def test_a_loopback_service_answers_to_loopback_hosts(service: Service, host: str) -> None:
    assert (await service.nobody.ask("GET", "/livez", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "192.0.2.1", "", "127.0.0.1.nip.io"])
async def test_a_loopback_service_refuses_foreign_hosts_as_dns_rebinding_sends_them(
    service: Service, host: str
) -> None:
    await service.nobody.problem(421, "host_not_allowed", "GET", "/livez", headers={"Host": host})
    await service.operator.problem(421, "host_not_allowed", "GET", "/v1/tenants", headers={"Host": host})


async def test_a_listed_host_is_answered_on_loopback_but_is_not_local(tmp_path: Path, clock: ManualClock) -> None:
    async with serving(tmp_path, clock, allowed_hosts="limits.example") as service:
        outside = Caller(service.client_at("http://limits.example"))
        assert (await outside.ask("GET", "/livez")).status_code == 200
        await outside.problem(401, "signup_closed", "POST", "/v1/tenants", {"name": "x"})


async def test_a_service_on_all_addresses_answers_to_any_host(tmp_path: Path, clock: ManualClock) -> None:
    async with serving(tmp_path, clock, host="0.0.0.0") as service:
        outside = Caller(service.client_at("http://limits.example", "203.0.113.9"))
        assert (await outside.ask("GET", "/livez")).status_code == 200


async def test_an_error_inside_is_a_500_that_tells_nothing_and_a_log_line_that_tells_all(
    service: Service, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the inside, with /etc/passwd in it")

    monkeypatch.setattr(service.runtime.keys, "list", fail)
    with structlog.testing.capture_logs() as lines:
        problem = await alice.problem(500, "internal", "GET", "/v1/keys")
    assert "inside" not in str(problem)
    assert problem["request_id"] in problem["detail"]
    failed = next(line for line in lines if line["event"] == "request.failed")
    assert failed["request_id"] == problem["request_id"]
    assert failed["exc_info"]


async def test_every_request_is_logged_and_counted_without_its_query(service: Service, alice: Tenant) -> None:
    with structlog.testing.capture_logs() as lines:
        await alice.ok("GET", "/v1/keys?q=private")
    line = next(line for line in lines if line["event"] == "request")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/keys", 200)
    assert "private" not in str(line)
    assert service.runtime.metrics.requests["GET", "/v1/keys", 200] == 1


async def test_the_log_has_the_route_and_nothing_of_what_was_written_into_the_url(
    service: Service, alice: Tenant
) -> None:
    with structlog.testing.capture_logs() as lines:
        await alice.ask("GET", "/v1/keys/hunter2?q=hunter2")
        await alice.ask("GET", "/hunter2/hunter2")
        await alice.ask("GET", "/v1/keys/hunter2/hunter2")
    paths = [line["path"] for line in lines if line["event"] == "request"]
    assert paths == ["/v1/keys/{key_id}", "(none)", "(none)"]
    assert "hunter2" not in str(lines)
