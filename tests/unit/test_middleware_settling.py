"""``reserve``: the check reserves an estimate, the app settles what it cost, and that goes out with the report or after it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from flask import Flask, Response

from apishield.errors import ConfigurationError
from apishield.integrations import flask as for_flask
from apishield.integrations.protection import Protection
from tests.support.fake_service import FakeService
from tests.support.protected import Protect, client_of, protect, seconds, service

__all__ = ["protect", "seconds", "service"]  # fixtures

ESTIMATE = {"requests": 1, "tokens": 4000}


def answering(*costs: Any) -> Any:
    """An ASGI app that settles each of ``costs``."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for cost in costs:
            scope["state"]["apishield"].settle(cost)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    return app


async def reported(middleware: Any, service: FakeService) -> list[Any]:
    """The costs in the reports that went out."""
    await middleware.protection.guard.close()
    return [report.get("cost") for report in service.reports]


@pytest.mark.parametrize(
    ("costs", "told"),
    [((), None), (({"tokens": 812},), {"tokens": 812}), ((5,), 5), ((5, {"tokens": 1}), {"tokens": 1})],
)
async def test_what_is_settled_goes_out_with_the_report(
    service: FakeService, protect: Protect, costs: Any, told: Any
) -> None:
    middleware = protect(answering(*costs), cost=ESTIMATE, reserve=True)
    async with client_of(middleware) as client:
        assert (await client.post("/complete")).status_code == 200
    assert (service.checks[0]["cost"], service.checks[0]["reserve"]) == (ESTIMATE, True)
    assert await reported(middleware, service) == [told]


async def test_what_is_settled_after_the_response_goes_out_in_a_report_of_its_own(
    service: FakeService, protect: Protect
) -> None:
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(scope["state"]["apishield"])
        await answering()(scope, receive, send)

    middleware = protect(app, reserve=True)
    async with client_of(middleware) as client:
        await client.post("/complete")
    kept[0].settle({"tokens": 7})
    assert await reported(middleware, service) == [None, {"tokens": 7}]
    assert {report["decision_id"] for report in service.reports} == {kept[0].decision_id}


async def test_a_function_says_which_requests_reserve(service: FakeService, protect: Protect) -> None:
    middleware = protect(answering(1), reserve=lambda scope: scope["path"] == "/complete")
    async with client_of(middleware) as client:
        await client.get("/complete")
        with pytest.raises(ConfigurationError, match="reserved nothing"):
            await client.get("/other")
    assert [check.get("reserve", False) for check in service.checks] == [True, False]


async def test_while_nobody_can_be_asked_there_is_nothing_to_settle(service: FakeService, protect: Protect) -> None:
    service.fails_with = (503, {"code": "database_unavailable", "status": 503})
    middleware = protect(answering(1), reserve=True, on_error="allow")
    async with client_of(middleware) as client:
        assert (await client.get("/complete")).status_code == 200
    assert await reported(middleware, service) == []


@pytest.mark.parametrize("cost", [-1, 1.5, True, {"tokens": "1"}, None])
async def test_what_can_be_no_cost_is_refused_by_name(service: FakeService, protect: Protect, cost: Any) -> None:
    async with client_of(protect(answering(cost), reserve=True)) as client:
        with pytest.raises(ConfigurationError, match="cost is"):
            await client.get("/complete")


def test_reserve_needs_reports_and_a_service() -> None:
    with pytest.raises(ConfigurationError, match="reserve needs report"):
        Protection(apishield_url="http://localhost:8000", api_key="sk_live_x", reserve=True, report=False)
    with pytest.raises(ConfigurationError, match="reserve can't be combined with limit"):
        Protection(limit="1/minute", reserve=True)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_flask_view_settles_also_at_the_end_of_a_stream(service: FakeService, streamed: bool) -> None:
    app = Flask(__name__)
    middleware = for_flask.protect(
        app, apishield_url=service.url, api_key="sk_live_service", timeout_seconds=1.0, reserve=True
    )

    @app.get("/complete")
    def complete() -> Any:
        decision: Any = for_flask.current_decision()

        def words() -> Any:
            yield "hello"
            decision.settle({"tokens": 3})

        if streamed:
            return Response(words())
        decision.settle({"tokens": 3})
        return "hello"

    def ask() -> str:
        with httpx2.Client(transport=httpx2.WSGITransport(app), base_url="http://api.test") as client:
            return client.get("/complete").text

    assert await asyncio.to_thread(ask) == "hello"
    await asyncio.to_thread(middleware.protection.close)
    assert [report.get("cost") for report in service.reports] == [{"tokens": 3}]
