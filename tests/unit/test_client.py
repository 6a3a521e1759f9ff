"""The SDK: what it puts on the wire, what it makes of answers, and what it sends twice."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from apishield.client import calls, wire
from apishield.client.clients import APIShield, AsyncAPIShield
from apishield.client.errors import (
    APIError,
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from apishield.client.models import CheckRequest, Report
from apishield.errors import ConfigurationError
from tests.support.fake_service import FakeService, allowed, refused, serving

URL = "http://apishield.test"


class Script(httpx2.BaseTransport):
    """Answers the requests of a client, one after the other, with a status and body, or an error."""

    def __init__(self, *answers: tuple[int, object] | Exception, headers: dict[str, str] | None = None) -> None:
        self.answers = list(answers)
        self.headers = headers or {}
        self.requests: list[httpx2.Request] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx2.Response(status, headers=self.headers, content=content)


def client_of(script: Script, **options: Any) -> APIShield:
    return APIShield(URL, api_key="sk_live_service", token="ast_owner", transport=script, **options)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses before another try are noted, not slept."""
    noted: list[float] = []
    monkeypatch.setattr("apishield.client.clients.time.sleep", noted.append)
    return noted


def problem(status: int, code: str, **fields: object) -> tuple[int, object]:
    return status, {"status": status, "code": code, "title": "A title", "detail": "A detail.", **fields}


# --- requests ---------------------------------------------------------------------------------------------------------


def test_the_data_plane_gets_the_service_key_and_the_control_plane_the_token() -> None:
    script = Script((200, allowed()), (200, {"id": "key_1", "name": "n"}))
    client = client_of(script, tenant_id="ten_1")
    client.check()
    client.get_key("key_1")
    assert [request.headers["Authorization"] for request in script.requests] == [
        "Bearer sk_live_service",
        "Bearer ast_owner",
    ]
    assert all(request.headers["X-APIShield-Tenant"] == "ten_1" for request in script.requests)
    assert all(request.headers["User-Agent"].startswith("apishield-python/") for request in script.requests)


def test_a_check_says_only_what_is_known() -> None:
    script = Script((200, allowed()))
    client_of(script).check(path="/orders", method="GET", cost={"requests": 1, "tokens": 900}, check_id="one")
    assert json.loads(script.requests[0].content) == {
        "check_id": "one",
        "path": "/orders",
        "method": "GET",
        "cost": {"requests": 1, "tokens": 900},
    }


def test_a_change_says_only_what_changes_and_null_is_a_value() -> None:
    script = Script((200, {"id": "key_1", "name": "n"}))
    client_of(script).update_key("key_1", expires_at=None, enabled=False)
    assert json.loads(script.requests[0].content) == {"expires_at": None, "enabled": False}


def test_times_go_out_as_rfc_3339_and_come_back_as_datetimes() -> None:
    moment = datetime(2026, 11, 23, 12, tzinfo=UTC)
    script = Script((201, {"id": "key_1", "name": "n", "expires_at": "2026-11-23T12:00:00Z"}))
    key = client_of(script).create_key("n", expires_at=moment)
    assert json.loads(script.requests[0].content)["expires_at"] == "2026-11-23T12:00:00Z"
    assert key.expires_at == moment


def test_an_id_can_not_leave_its_path_segment() -> None:
    script = Script((404, {}))
    with pytest.raises(NotFoundError):
        client_of(script).get_key("../tenants/ten_1?x=#")
    assert script.requests[0].url.raw_path == b"/v1/keys/..%2Ftenants%2Ften_1%3Fx%3D%23"


def test_list_filters_become_a_query_and_those_left_out_do_not() -> None:
    script = Script((200, {"data": [{"id": "blk_1", "ip": "192.0.2.1"}], "has_more": True, "next_cursor": "c"}))
    page = client_of(script).list_blocks(active=True, ip="192.0.2.1", limit=1)
    assert script.requests[0].url.query == b"active=true&ip=192.0.2.1&limit=1"
    assert (page.data[0].ip, page.has_more, page.next_cursor) == ("192.0.2.1", True, "c")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://", "http://u:p@x", "http://x/?q=1", "http://x/#f"]
)
def test_a_url_that_is_none_of_a_service_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        APIShield(url)


@pytest.mark.parametrize("credential", ["", "sk_live_\n", "a b", "schlüssel"])
def test_a_credential_that_can_be_none_is_refused_without_being_shown(credential: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        APIShield(URL, api_key=credential)
    assert "api_key" in str(raised.value) or credential == ""
    assert not credential or credential not in str(raised.value)


def test_credentials_and_secrets_show_in_no_repr() -> None:
    script = Script((201, {"id": "key_1", "name": "n", "key": "sk_live_secret", "hint": "sk_live_se…ret"}))
    client = client_of(script)
    assert "sk_live" not in repr(client)
    assert "ast_" not in repr(client)
    assert "sk_live_secret" not in repr(client.create_key("n"))


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_denial_is_a_value() -> None:
    script = Script((200, refused("rate_limited", 429, **{"Retry-After": "13"}) | {"retry_after": 12.4}))
    decision = client_of(script).check(path="/")
    assert (decision.allowed, decision.code, decision.status, decision.retry_after) == (
        False,
        "rate_limited",
        429,
        12.4,
    )


def test_fields_of_a_newer_service_are_ignored() -> None:
    script = Script((200, allowed(invented_later={"a": 1})))
    assert client_of(script).check().allowed


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (409, ConflictError),
        (421, APIError),
        (422, InvalidRequestError),
        (429, TooManyRequestsError),
        (500, ServerError),
    ],
)
def test_a_problem_becomes_the_error_of_its_status(status: int, kind: type[APIError]) -> None:
    script = Script(
        problem(status, "a_code", request_id="req_1", errors=[{"pointer": "/name", "message": "is too long"}]),
        headers={"Retry-After": "7"},
    )
    with pytest.raises(kind, match="A detail") as raised:
        client_of(script, retries=0).create_key("n")
    error = raised.value
    assert type(error) is kind
    assert (error.status, error.code, error.request_id, error.retry_after_seconds) == (status, "a_code", "req_1", 7)
    assert error.faults == (("/name", "is too long"),)


@pytest.mark.parametrize("body", [b"<html>502 Bad Gateway</html>", b"", b"\xff\xfe", b"[]"])
def test_a_gateway_that_answers_for_the_service_is_the_service_being_unavailable(body: bytes) -> None:
    with pytest.raises(ServiceUnavailableError, match="502"):
        client_of(Script((502, body)), retries=0).get_tenant()


def test_a_success_that_is_not_ours_is_the_service_being_unavailable() -> None:
    with pytest.raises(ServiceUnavailableError, match="does not answer as APIShield does"):
        client_of(Script((200, b"<html>hello</html>")), retries=0).check()


# --- trying again -----------------------------------------------------------------------------------------------------

REFUSED = httpx2.ConnectError("refused")
RESET = httpx2.ReadError("reset")


def test_what_can_not_have_arrived_is_sent_again(pauses: list[float]) -> None:
    script = Script(REFUSED, REFUSED, (200, allowed()))
    assert client_of(script).check().allowed
    assert pauses == [0.1, 0.2]


MAY_HAVE_ARRIVED = [RESET, httpx2.ReadTimeout("slow"), problem(503, "database_unavailable")]


@pytest.mark.parametrize("failure", MAY_HAVE_ARRIVED)
def test_a_check_that_may_have_been_charged_is_sent_again_under_the_same_check_id(
    failure: Any, pauses: list[float]
) -> None:
    script = Script(failure, (200, allowed()))
    assert client_of(script).check(path="/").allowed
    first, again = (json.loads(request.content) for request in script.requests)
    assert len(first["check_id"]) >= 20
    assert again == first


def test_each_check_of_a_batch_is_sent_again_under_its_own_check_id(pauses: list[float]) -> None:
    script = Script(RESET, (200, {"results": [allowed(), allowed()]}))
    client_of(script).check_batch([CheckRequest(path="/a"), CheckRequest(path="/b", check_id="mine")])
    first, again = (json.loads(request.content)["checks"] for request in script.requests)
    assert again == first
    assert first[0]["check_id"] not in {None, "mine"}
    assert first[1]["check_id"] == "mine"


@pytest.mark.parametrize("failure", MAY_HAVE_ARRIVED)
@pytest.mark.parametrize("build", [calls.check_one, lambda check: calls.check_all([check])])
def test_a_check_that_the_service_would_not_know_again_is_sent_once(failure: Any, build: Any) -> None:
    script = Script(failure)
    with pytest.raises((ServiceUnavailableError, ServerError)):
        client_of(script).send(build(CheckRequest(path="/")))
    assert len(script.requests) == 1


def test_a_post_is_sent_again_under_the_same_idempotency_key() -> None:
    script = Script(RESET, problem(503, "database_unavailable"), (201, {"id": "key_1", "name": "n"}))
    client_of(script).create_key("n")
    keys = {request.headers["Idempotency-Key"] for request in script.requests}
    assert len(script.requests) == 3
    assert len(keys) == 1
    assert len({request.content for request in script.requests}) == 1


def test_two_posts_never_share_an_idempotency_key() -> None:
    script = Script((201, {"id": "key_1", "name": "n"}), (201, {"id": "key_2", "name": "n"}))
    client = client_of(script)
    client.create_key("n")
    client.create_key("n")
    assert len({request.headers["Idempotency-Key"] for request in script.requests}) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.update_key("key_1", name="n"),
        lambda client: client.unblock("blk_1"),
        lambda client: client.create_tenant("n"),
    ],
)
def test_a_change_that_the_service_would_not_know_again_is_sent_once(call: Callable[[APIShield], object]) -> None:
    script = Script(RESET)
    with pytest.raises(ServiceUnavailableError):
        call(client_of(script))
    assert len(script.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 500])
def test_an_answer_that_would_be_the_same_is_not_asked_for_again(status: int) -> None:
    script = Script(problem(status, "a_code"))
    with pytest.raises(APIError):
        client_of(script).get_tenant()
    assert len(script.requests) == 1


def test_tries_are_bounded(pauses: list[float]) -> None:
    script = Script(*[REFUSED] * 9)
    with pytest.raises(ServiceUnavailableError, match="can't be reached"):
        client_of(script, retries=8).get_tenant()
    assert len(script.requests) == 9
    assert max(pauses) == wire.LONGEST_PAUSE_SECONDS


def test_a_short_retry_after_is_kept_and_a_long_one_is_the_callers(pauses: list[float]) -> None:
    script = Script(
        problem(429, "signup_rate_limited"), (200, {"id": "ten_1", "name": "n"}), headers={"Retry-After": "2"}
    )
    client_of(script).get_tenant()
    assert pauses == [2.0]
    with pytest.raises(TooManyRequestsError):
        client_of(Script(problem(429, "signup_rate_limited"), headers={"Retry-After": "600"})).get_tenant()


# --- both clients -----------------------------------------------------------------------------------------------------


async def test_the_asynchronous_client_speaks_to_a_real_server_and_reuses_its_connection() -> None:
    service = FakeService()
    service.decide = lambda check: refused("blocked", 403) if check.get("ip") == "192.0.2.1" else allowed()
    async with serving(service) as url, AsyncAPIShield(url, api_key="sk_live_service") as client:
        assert (await client.check(ip="192.0.2.9")).allowed
        batch = await client.check_batch([CheckRequest(ip="192.0.2.1"), CheckRequest(ip="192.0.2.2")])
        assert [decision.code for decision in batch.results] == ["blocked", "ok"]
        result = await client.report([Report(decision_id="dec_1", status=200, latency_ms=1.5)])
        assert result.accepted == 1
    assert service.reports == [{"decision_id": "dec_1", "status": 200, "latency_ms": 1.5}]
    assert len(service.clients) == 1


async def test_a_service_that_is_not_there_is_unavailable_and_can_not_have_seen_the_request() -> None:
    async with serving(FakeService()) as url:
        pass
    async with AsyncAPIShield(url, retries=0) as client:
        with pytest.raises(ServiceUnavailableError) as raised:
            await client.check()
    assert raised.value.sent is False


def test_every_call_is_a_method_that_keeps_its_signature_and_text() -> None:
    public: Sequence[str] = [
        name
        for name, value in vars(calls).items()
        if inspect.isfunction(value) and value.__module__ == calls.__name__ and not name.startswith("_")
    ]
    client = client_of(Script())
    for name in set(public) - {"check_one", "check_all"}:
        method, build = getattr(client, name), getattr(calls, name)
        assert inspect.signature(method) == inspect.signature(build), name
        assert method.__doc__ == build.__doc__
