"""Direct routes skip ASGI and nothing else: order, keep-alive, bounds and shutdown hold as on the long way."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Sequence

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from apishield.api.dataplane.answers import Answer
from apishield.api.dataplane.app import DirectRoutes
from apishield.api.middleware.bounds import MAX_BODY_BYTES
from apishield.cli import protocol
from apishield.cli.protocol import BoundedHttpProtocol
from tests.integration.test_protocol import Connection

Headers = Sequence[tuple[bytes, bytes]]


def _answer(way: str, size: int) -> Answer:
    return Answer(200, [(b"content-type", b"application/json")], json.dumps({"way": way, "size": size}).encode())


class App:
    """``/now`` answers directly at once, ``/later`` when the test lets it, everything goes the long way otherwise."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waiting = 0
        self.direct: DirectRoutes = {(b"POST", b"/now"): self._now, (b"POST", b"/later"): self._later}

    def _now(self, headers: Headers, body: bytes) -> Answer:
        return _answer("direct", len(body))

    def _later(self, headers: Headers, body: bytes) -> Awaitable[Answer]:
        return self._wait(body)

    async def _wait(self, body: bytes) -> Answer:
        self.waiting += 1
        await self.gate.wait()
        return _answer("later", len(body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        answer = _answer("asgi", size)
        length = (b"content-length", str(len(answer.body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*answer.headers, length]})
        await send({"type": "http.response.body", "body": answer.body})


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def server(app: App) -> AsyncIterator[uvicorn.Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            interface="asgi3",
            proxy_headers=False,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0)
        server.port = listener.getsockname()[1]  # type: ignore[attr-defined]
        yield server
        server.should_exit = server.force_exit = True
        await serving


@pytest.fixture
async def connection(server: uvicorn.Server) -> AsyncIterator[Connection]:
    opened = await Connection.open(server.port)  # type: ignore[attr-defined]
    yield opened
    opened.writer.close()


def post(path: str, body: bytes = b"", *headers: bytes, version: str = "1.1") -> bytes:
    head = f"POST {path} HTTP/{version}\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n".encode()
    return b"".join([head, *headers, b"\r\n", body])


async def test_a_connection_is_kept_for_the_next_request(connection: Connection) -> None:
    for size in (0, 1, 5000):
        await connection.send(post("/now", b"x" * size))
        status, headers, body = await connection.answer()
        assert (status, body) == (200, {"way": "direct", "size": size})
        assert "date" in headers
        assert "connection" not in headers


async def test_a_body_may_come_in_any_pieces(connection: Connection) -> None:
    whole = post("/now", b"x" * 2000)
    await connection.send(*[whole[start : start + 97] for start in range(0, len(whole), 97)])
    assert (await connection.answer())[2] == {"way": "direct", "size": 2000}
    chunks = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    await connection.send(b"POST /now HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", chunks)
    assert (await connection.answer())[2] == {"way": "direct", "size": 11}


async def test_pipelined_requests_are_answered_in_their_order(connection: Connection, app: App) -> None:
    await connection.send(post("/later") + post("/now", b"1") + post("/other", b"22") + post("/now", b"333"))
    while not app.waiting:
        await asyncio.sleep(0)
    app.gate.set()
    sizes = [(await connection.answer())[2]["size"] for _ in range(4)]
    assert sizes == [0, 1, 2, 3]


async def test_what_the_short_cut_is_not_for_takes_the_long_way(connection: Connection) -> None:
    await connection.send(b"GET /now HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await connection.answer())[2]["way"] == "asgi"
    await connection.send(post("/now?x=1"))
    assert (await connection.answer())[2]["way"] == "asgi"
    await connection.send(post("/now", b"x", b"expect: 100-continue\r\n"))
    assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    assert (await connection.answer())[2]["way"] == "asgi"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_connection_that_is_to_be_closed_is_closed(server: uvicorn.Server, version: str) -> None:
    connection = await Connection.open(server.port)  # type: ignore[attr-defined]
    await connection.send(post("/now", b"", b"connection: close\r\n", version=version))
    _, headers, _ = await connection.answer()
    assert headers["connection"] == "close"
    assert await connection.reader.read() == b""


async def test_a_body_beyond_the_bound_is_not_collected(connection: Connection) -> None:
    await connection.send(post("/now", b"x" * (4 * MAX_BODY_BYTES)))
    size = (await connection.answer())[2]["size"]
    assert MAX_BODY_BYTES < size < 2 * MAX_BODY_BYTES  # so the route sees that it is too large, and no more than that


async def test_a_client_that_has_gone_is_not_answered(server: uvicorn.Server, app: App) -> None:
    connection = await Connection.open(server.port)  # type: ignore[attr-defined]
    await connection.send(post("/later"))
    while not app.waiting:
        await asyncio.sleep(0)
    connection.writer.close()
    while server.server_state.connections:
        await asyncio.sleep(0)
    app.gate.set()
    while server.server_state.tasks:
        await asyncio.sleep(0)


async def test_a_shutdown_lets_a_pending_answer_out(server: uvicorn.Server, app: App) -> None:
    connection = await Connection.open(server.port)  # type: ignore[attr-defined]
    await connection.send(post("/later"))
    while not app.waiting:
        await asyncio.sleep(0)
    server.should_exit = True
    while not any(not each.cycle.keep_alive for each in server.server_state.connections):  # type: ignore[union-attr]
        await asyncio.sleep(0)
    app.gate.set()
    _, headers, body = await connection.answer()
    assert body["way"] == "later"
    assert headers["connection"] == "close"


async def test_a_body_in_tiny_pieces_costs_no_more_than_it_weighs(connection: Connection) -> None:
    pieces = b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"
    await connection.send(b"POST /now HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", pieces)
    assert (await connection.answer())[2] == {"way": "direct", "size": 200_000}


async def test_what_follows_a_body_is_no_header(server: uvicorn.Server, app: App) -> None:
    seen: list[bytes] = []

    def route(headers: Headers, body: bytes) -> Answer:
        seen.extend(name for name, _ in headers)
        return _answer("direct", len(body))

    app.direct = {(b"POST", b"/now"): route}
    connection = await Connection.open(server.port)  # type: ignore[attr-defined]
    head = b"POST /now HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    await connection.send(head, b"1\r\nx\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    assert (await connection.answer())[0] == 200
    assert b"authorization" not in seen
    connection.writer.close()


async def test_a_body_that_never_ends_is_not_waited_for(
    server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_TIMEOUT_SECONDS", 0.05)
    for path in ("/now", "/other"):
        connection = await Connection.open(server.port)  # type: ignore[attr-defined]
        await connection.send(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc".encode())
        async with asyncio.timeout(20):
            assert await connection.reader.read() == b""


async def test_connections_beyond_what_files_allow_are_closed(
    server: uvicorn.Server, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.send(post("/now"))
    await connection.answer()
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 1)
    second = await Connection.open(server.port)  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        assert await second.reader.read() == b""
    await connection.send(post("/now"))
    assert (await connection.answer())[0] == 200
