"""``RateLimitMiddleware`` behind the scenes and on bad days: reports, batches, a service that is silent, wrong or gone."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx2
import pytest

from tests.support.fake_service import FakeService, allowed, refused
from tests.support.protected import Protect, client_of, hello, protect, seconds, service

__all__ = ["protect", "seconds", "service"]  # fixtures

SILENT = 0.05  # a time-out for tests in which the service stays silent


# --- reports ----------------------------------------------------------------------------------------------------------


async def test_reports_travel_together_behind_the_responses(service: FakeService, protect: Protect) -> None:
    app = protect(hello)
    async with client_of(app) as client:
        for _ in range(5):
            await client.get("/")
    assert service.reports == []  # nothing waited for them
    await app.protection.guard.close()
    assert [request for request in service.requests if request[0] == "/v1/report"] == [("/v1/report", 5)]
    report = service.reports[0]
    assert (report["status"], report["bytes"]) == (200, 5)
    assert report["latency_ms"] >= 0


async def test_reports_go_out_by_themselves_when_many_wait(
    service: FakeService, protect: Protect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apishield.integrations.service.FLUSH_SECONDS", 3600)
    async with client_of(protect(hello)) as client:
        for _ in range(500):
            await client.get("/")
        while not service.reports:
            await asyncio.sleep(0)
    assert len(service.reports) == 500


async def test_refusals_and_unchecked_requests_are_not_reported(service: FakeService, protect: Protect) -> None:
    app = protect(hello)
    async with client_of(app) as client:
        service.decide = lambda check: refused("blocked", 403)
        await client.get("/")
        service.fails_with = (500, {"code": "internal", "status": 500})
        await client.get("/")
    service.fails_with = None
    await app.protection.guard.close()
    assert service.reports == []


async def test_reports_can_be_turned_off(service: FakeService, protect: Protect) -> None:
    app = protect(hello, report=False)
    async with client_of(app) as client:
        await client.get("/")
    await app.protection.guard.close()
    assert service.reports == []


async def test_reports_wait_for_a_service_that_is_away(service: FakeService, protect: Protect) -> None:
    app = protect(hello)
    async with client_of(app) as client:
        await client.get("/")
        service.fails_with = (503, {"code": "database_unavailable", "status": 503})
        await app.protection.guard.close()
        assert service.reports == []
        service.fails_with = None
        await client.get("/")
        await app.protection.guard.close()
    assert len(service.reports) == 2


# --- batches ----------------------------------------------------------------------------------------------------------


async def test_checks_that_wait_together_travel_together_and_are_answered_apart(
    service: FakeService, protect: Protect
) -> None:
    service.decide = lambda check: refused("blocked", 403) if check["path"].endswith("7") else allowed()
    async with client_of(protect(hello)) as client:
        answers = await asyncio.gather(*(client.get(f"/{number}") for number in range(100)))
    assert [answer.status_code for answer in answers] == [403 if n % 10 == 7 else 200 for n in range(100)]
    assert sorted(int(check["path"][1:]) for check in service.checks) == list(range(100))
    assert len([path for path, _ in service.requests if path != "/v1/report"]) <= 10


async def test_a_check_whose_client_has_gone_before_it_was_sent_is_not_charged(
    service: FakeService, protect: Protect
) -> None:
    service.answering.clear()
    async with client_of(protect(hello)) as client:
        busy = []
        for number in range(4):
            busy.append(asyncio.create_task(client.get("/busy")))
            while len(service.checks) <= number:
                await asyncio.sleep(0)
        gone, waiting = asyncio.create_task(client.get("/gone")), asyncio.create_task(client.get("/waiting"))
        for _ in range(20):
            await asyncio.sleep(0)
        gone.cancel()
        service.answering.set()
        await asyncio.gather(*busy, waiting)
    assert "/gone" not in [check["path"] for check in service.checks]


# --- bad days ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503)])
async def test_a_silent_service_costs_one_time_out_and_then_nothing(
    service: FakeService, protect: Protect, on_error: str, status: int
) -> None:
    service.answering.clear()
    async with client_of(protect(hello, on_error=on_error, timeout_seconds=SILENT)) as client:
        first = await client.get("/")
        asked = len(service.requests)
        rest = [await client.get("/") for _ in range(50)]
    assert {answer.status_code for answer in (first, *rest)} == {status}
    assert {answer.headers["X-APIShield-Degraded"] for answer in (first, *rest)} == {"true"}
    assert len(service.requests) == asked
    if on_error == "deny":
        assert first.json()["code"] == "store_unavailable"
        assert "Retry-After" not in first.headers


async def test_all_that_wait_are_answered_when_the_first_times_out(service: FakeService, protect: Protect) -> None:
    service.answering.clear()
    async with client_of(protect(hello, timeout_seconds=SILENT)) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(300)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers.get("X-APIShield-Degraded") for answer in answers} == {"true"}


async def test_an_app_that_blocks_its_own_loop_does_not_take_the_service_for_gone(
    service: FakeService, protect: Protect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apishield.integrations.batches.GRACE_SECONDS", 30)  # of shared cores
    async with client_of(protect(hello, timeout_seconds=SILENT)) as client:
        request = asyncio.create_task(client.get("/"))
        for _ in range(3):  # the question is being asked
            await asyncio.sleep(0)
        time.sleep(2 * SILENT)  # what a blocking handler does
        answer = await request
    assert service.checks
    assert "X-APIShield-Degraded" not in answer.headers


async def test_it_heals_by_itself_by_a_probe_that_charges_nobody(
    service: FakeService, protect: Protect, seconds: list[float]
) -> None:
    service.fails_with = (503, {"code": "database_unavailable", "status": 503})
    async with client_of(protect(hello)) as client:
        assert (await client.get("/")).headers["X-APIShield-Degraded"] == "true"
        service.fails_with = None
        seconds[0] += 10
        during = await client.get("/")
        assert during.headers["X-APIShield-Degraded"] == "true"  # it did not wait for the probe
        while not service.checks:
            await asyncio.sleep(0)
        assert service.checks == [{"cost": 0}]
        while "X-APIShield-Degraded" in (await client.get("/")).headers:
            await asyncio.sleep(0)


@pytest.mark.parametrize("status", [401, 403, 404, 421, 429])
async def test_a_wrong_service_key_is_said_loudly_and_handled_by_on_error(
    service: FakeService, protect: Protect, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    service.fails_with = (status, {"code": "token_invalid", "status": status, "detail": "The credential is unknown."})
    with caplog.at_level(logging.WARNING, "apishield"):
        async with client_of(protect(hello, on_error="deny")) as client:
            answers = [await client.get("/") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {503}
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "The credential is unknown." in errors[0].getMessage()
    assert "sk_live" not in caplog.text


async def test_a_check_that_the_service_can_not_use_is_no_way_around_it(service: FakeService, protect: Protect) -> None:
    service.fails_with = (422, {"code": "validation_failed", "status": 422})
    async with client_of(protect(hello, on_error="allow")) as client:
        assert (await client.get("/")).status_code == 400
        service.fails_with = None
        assert (await client.get("/")).status_code == 200  # and no outage for anyone else


Headers = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"\xff\xfe\x00")],
        [(b"x-api-key", b"k" * 65_536)],
        [(b"authorization", b"Bearer sk_\xe4\xf6")],
        [(b"user-agent", b"\xf0" * 5000)],
        [(b"x-request-id", b"a\r\nb" * 4)],
        [(b"x-api-key", b"sk_live_a")] * 50,
    ],
)
async def test_odd_headers_are_asked_about_like_any_other(
    service: FakeService, protect: Protect, headers: Headers
) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/\x00\udcff", "headers": headers, "client": None}
    await protect(hello, on_error="deny")(scope, receive, send)
    assert sent[0]["status"] == 200
    assert len(service.checks) == 1


async def test_whatever_goes_wrong_in_asking_the_app_goes_on(
    service: FakeService, protect: Protect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Any, request: httpx2.Request) -> httpx2.Response:
        raise OSError("too many open files")

    app = protect(hello)
    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", broken)
    async with client_of(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.headers["X-APIShield-Degraded"]) == (200, "true")


async def test_one_odd_check_spoils_no_other_of_its_batch(service: FakeService, protect: Protect) -> None:
    service.decide = lambda check: refused("bad_request", 400) if ".." in check["path"] else allowed()
    async with client_of(protect(hello)) as client:
        answers = await asyncio.gather(*(client.get(path) for path in ("/a", "/%2e%2e/b", "/c")))
    assert [answer.status_code for answer in answers] == [200, 400, 200]


async def test_answers_that_do_not_match_the_questions_are_no_answers(service: FakeService, protect: Protect) -> None:
    async with client_of(protect(hello, on_error="deny")) as client:
        service.fails_with = (200, {"results": [allowed()]})
        answers = await asyncio.gather(*(client.get("/") for _ in range(3)))
    assert {answer.status_code for answer in answers} == {503}
