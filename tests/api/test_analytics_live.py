"""The live view: what was decided since the last second, of the tenant's own only; bounded, and it ends when it should."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from apishield.api import streams
from apishield.api.routers import decisions
from apishield.errors import ProblemError
from apishield.services.analytics import live
from apishield.services.analytics.places import Places
from tests.api.support import Service, Tenant, problem_of
from tests.api.test_analytics_queries import check

Event = tuple[str, Any]


class Listening:
    """A listener on the live view, whose seconds the test lets pass."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.service = service
        self._go_on = asyncio.Semaphore(0)
        self._gone = asyncio.Event()
        self._asked = False
        self._sent: asyncio.Queue[Any] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        monkeypatch.setattr(service.runtime.live, "_pause", self._pause)

    async def _pause(self, _seconds: float) -> None:
        await self._go_on.acquire()

    def open(self, token: str, query: str = "") -> None:
        """Opens the stream."""
        self._sent = asyncio.Queue()
        self._gone.clear()
        self._asked = False
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": "/v1/analytics/live", "raw_path": b"/v1/analytics/live",
            "query_string": query.encode(), "client": ("127.0.0.1", 5), "server": ("localhost", 8000),
            "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {token}".encode())],
        }  # fmt: skip
        self._task = asyncio.create_task(self.service.app(scope, self._receive, self._send))  # type: ignore[arg-type]

    async def _receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b""}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self._sent.put(message)

    async def head(self) -> Any:
        """How the answer begins."""
        return await self._sent.get()

    async def tick(self) -> list[Event]:
        """The events of the next second."""
        while True:
            text = (await self._sent.get())["body"].decode()
            if "event:" in text:
                return [_read(part) for part in text.strip().split("\n\n")]

    async def second(self) -> list[Event]:
        """Lets a second pass and returns its events, once what was decided is in the ledger."""
        await self.service.runtime.freshness.wait()
        self.service.clock.advance(1)
        self._go_on.release()
        return await self.tick()

    async def close(self) -> None:
        """Goes away."""
        self._gone.set()
        self._go_on.release()
        assert self._task is not None
        await self._task

    async def end(self) -> None:
        """Waits until the stream ends by itself."""
        self._go_on.release()
        assert self._task is not None
        await asyncio.wait_for(self._task, 10)

    def said(self) -> str:
        """All that was sent and not looked at yet."""
        return b"".join(self._sent.get_nowait().get("body", b"") for _ in range(self._sent.qsize())).decode()

    def read_no_more(self) -> None:
        """From here on nothing that is sent gets through."""
        self._sent = asyncio.Queue(maxsize=1)
        self._sent.put_nowait({})


def _read(part: str) -> Event:
    fields = dict(line.split(": ", 1) for line in part.splitlines())
    return fields["event"], json.loads(fields["data"])


@pytest.fixture
def listening(service: Service, monkeypatch: pytest.MonkeyPatch) -> Listening:
    """Somebody who may listen."""
    return Listening(service, monkeypatch)


def totals(events: list[Event]) -> tuple[int, int, int]:
    (name, counts), *_ = events
    assert name == "totals"
    return counts["requests"], counts["allowed"], counts["refused"]


async def test_each_second_tells_what_was_decided_since_the_last(listening: Listening, alice: Tenant) -> None:
    await check(alice, method="GET", path="/before", ip="203.0.113.1")
    await listening.service.runtime.freshness.wait()
    listening.service.clock.advance(1)
    listening.open(alice.secret)
    head = await listening.head()
    assert (b"content-type", b"text/event-stream; charset=utf-8") in head["headers"]
    assert totals(await listening.tick()) == (0, 0, 0)  # what was before is no news
    for number in range(3):
        await check(alice, method="GET", path=f"/{number}", ip="203.0.113.1")
    await alice.ok("POST", "/v1/blocklist", {"ip": "203.0.113.9"}, status=201)
    await check(alice, method="GET", path="/x", ip="203.0.113.9")
    events = await listening.second()
    assert totals(events) == (4, 3, 1)
    assert [event["path"] for name, event in events[1:] if name == "request"] == ["/0", "/1", "/2", "/x"]
    assert totals(await listening.second()) == (0, 0, 0)
    await listening.close()
    assert listening.service.runtime.live.places.taken == 0


async def test_filters_hold_for_totals_and_for_the_sample(listening: Listening, alice: Tenant) -> None:
    listening.open(alice.secret, "method=POST")
    await listening.head()
    await listening.tick()
    await check(alice, method="GET", path="/get", ip="203.0.113.1")
    await check(alice, method="POST", path="/post", ip="203.0.113.1")
    events = await listening.second()
    assert totals(events) == (1, 1, 0)
    assert [event["path"] for _, event in events[1:]] == ["/post"]
    await listening.close()


async def test_a_second_shows_twenty_events_at_most_and_counts_all(listening: Listening, alice: Tenant) -> None:
    listening.open(alice.secret)
    await listening.head()
    await listening.tick()
    for _ in range(25):
        await check(alice, method="GET", path="/", ip="203.0.113.1")
    events = await listening.second()
    assert totals(events) == (25, 25, 0)
    assert len(events) == 1 + live.MOST_SAMPLED
    await listening.close()


async def test_what_reached_the_ledger_in_several_rounds_is_shown_together(listening: Listening, alice: Tenant) -> None:
    listening.open(alice.secret)
    await listening.head()
    await listening.tick()
    for number in range(6):
        await check(alice, method="GET", path=f"/{number}", ip="203.0.113.1")
        await listening.service.runtime.freshness.wait()
    events = await listening.second()
    assert totals(events) == (6, 6, 0)
    assert sorted(event["path"] for _, event in events[1:]) == [f"/{number}" for number in range(6)]
    await listening.close()


async def test_nobody_listens_to_another_tenant(listening: Listening, alice: Tenant, bob: Tenant) -> None:
    listening.open(bob.secret)
    await listening.head()
    await listening.tick()
    await check(alice, method="GET", path="/", ip="203.0.113.1")
    assert await listening.second() == [
        ("totals", {"at": "2026-11-18T11:06:41Z", "requests": 0, "allowed": 0, "refused": 0})
    ]
    await listening.close()


async def test_a_tenant_has_so_many_listeners_and_a_place_is_free_again_when_one_leaves(
    listening: Listening, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening.service.runtime.live.places, "of_tenant", 1)
    listening.open(alice.secret)
    await listening.head()
    response = await alice.ask("GET", "/v1/analytics/live")
    problem_of(response, 429, "concurrency_exceeded")
    assert response.headers["retry-after"]
    await listening.close()
    listening.open(alice.secret)
    assert (await listening.head())["status"] == 200
    await listening.close()


async def test_a_stream_ends_when_the_node_stops(listening: Listening, alice: Tenant) -> None:
    listening.open(alice.secret)
    await listening.head()
    await listening.tick()
    listening.service.runtime.live.stop()
    await listening.end()
    assert listening.service.runtime.live.places.taken == 0


async def test_a_stream_ends_after_ten_minutes_however_long_its_ticks_take(listening: Listening, alice: Tenant) -> None:
    listening.open(alice.secret)
    await listening.head()
    await listening.tick()
    listening.service.clock.advance(live.LONGEST_SECONDS - 2)
    await listening.second()
    listening.service.clock.advance(1)
    await listening.end()
    assert "event:" not in listening.said()


async def test_a_revoked_token_hears_nothing_more(listening: Listening, alice: Tenant) -> None:
    made = await alice.ok("POST", "/v1/tokens", {"name": "Viewer", "role": "viewer"}, status=201)
    listening.open(made["token"])
    await listening.head()
    await listening.tick()
    await alice.ask("DELETE", f"/v1/tokens/{made['id']}")
    await check(alice, method="GET", path="/secret", ip="203.0.113.1")
    await listening.service.runtime.freshness.wait()
    await listening.end()
    assert "event:" not in listening.said()
    assert listening.service.runtime.live.places.taken == 0


async def test_an_expired_token_hears_nothing_more(listening: Listening, alice: Tenant) -> None:
    made = await alice.ok(
        "POST", "/v1/tokens", {"name": "Brief", "role": "viewer", "expires_at": "2026-11-18T11:08:00Z"}, status=201
    )
    listening.open(made["token"])
    await listening.head()
    await listening.tick()
    listening.service.clock.advance(120)
    await listening.end()
    assert "event:" not in listening.said()


@pytest.mark.parametrize("what", ["suspended", "deleted"])
async def test_a_tenant_that_is_no_longer_served_hears_nothing_more(
    listening: Listening, alice: Tenant, what: str
) -> None:
    listening.open(alice.secret)
    await listening.head()
    await listening.tick()
    if what == "suspended":
        await listening.service.operator.ok("PATCH", f"/v1/tenants/{alice.id}", {"status": "suspended"})
    else:
        await listening.service.operator.ask("DELETE", f"/v1/tenants/{alice.id}")
    await listening.end()
    assert "event:" not in listening.said()


async def test_who_loses_the_right_while_a_tick_is_read_does_not_get_it(
    listening: Listening, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening.open(alice.secret)
    await listening.head()
    await listening.tick()
    whole = listening.service.runtime.live._minutes

    async def slowly(*arguments: Any) -> Any:
        await listening.service.operator.ok("PATCH", f"/v1/tenants/{alice.id}", {"status": "suspended"})
        return await whole(*arguments)

    monkeypatch.setattr(listening.service.runtime.live, "_minutes", slowly)
    await listening.end()
    assert "event:" not in listening.said()


async def test_who_does_not_read_loses_the_place(
    listening: Listening, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "_READ_WITHIN_SECONDS", 0.05)
    listening.open(alice.secret)
    await listening.head()
    await listening.tick()
    listening.read_no_more()
    await listening.end()
    assert listening.service.runtime.live.places.taken == 0


def test_no_tenant_takes_all_places_and_the_last_are_for_tenants_that_have_none() -> None:
    places = Places("live views", of_tenant=4, of_all=6, reserved=2, retry_after_seconds=1)
    with contextlib.ExitStack() as taken:
        for _ in range(4):
            taken.enter_context(places.admitted("ten_a"))
        with pytest.raises(ProblemError, match="4 live views"):
            taken.enter_context(places.admitted("ten_a"))
        taken.enter_context(places.admitted("ten_b"))
        with pytest.raises(ProblemError, match="no room"):
            taken.enter_context(places.admitted("ten_b"))  # one is left, for somebody who has none
        taken.enter_context(places.admitted("ten_c"))
        with pytest.raises(ProblemError, match="no room"):
            taken.enter_context(places.admitted("ten_d"))
    assert places.taken == 0


def test_large_pieces_are_written_in_parts_so_that_a_slow_reader_is_told_from_one_who_is_gone() -> None:
    body = bytes(range(256)) * 600
    parts = list(streams._parts({"type": "http.response.body", "body": body, "more_body": True}))
    assert b"".join(part["body"] for part in parts) == body
    assert all(len(part["body"]) <= streams.PART_BYTES for part in parts)
    assert all(part["more_body"] for part in parts)


async def test_a_head_request_gets_no_stream(alice: Tenant) -> None:
    response = await alice.ask("HEAD", "/v1/analytics/live")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
