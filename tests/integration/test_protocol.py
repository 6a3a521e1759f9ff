"""The head of a request is bounded in bytes and in time, and what is refused is a problem document."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from apishield.cli import protocol
from apishield.cli.protocol import MAX_HEAD_BYTES, BoundedHttpProtocol


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of headers and the size of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = json.dumps({"headers": len(scope["headers"]), "body": size}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Where a server with our protocol listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            echo, http=BoundedHttpProtocol, ws="none", lifespan="off", log_config=None, interface="asgi3"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0)
        yield listener.getsockname()[1]
        server.should_exit = server.force_exit = True
        await serving


class Connection:
    """A connection on which a test writes bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, json.loads(body)

    async def ended(self) -> bool:
        """Waits for the end; a server that closes on unread bytes resets the connection."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


def request(*headers: bytes, body: bytes = b"") -> bytes:
    return b"".join(
        [b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n" % len(body), *headers, b"\r\n", body]
    )


async def test_a_head_within_the_bound_passes_with_a_large_body(port: int) -> None:
    connection = await Connection.open(port)
    await connection.send(request(b"x: " + b"a" * (MAX_HEAD_BYTES - 200) + b"\r\n", body=b"b" * 300_000))
    status, _, seen = await connection.answer()
    assert (status, seen) == (200, {"headers": 3, "body": 300_000})


@pytest.mark.parametrize(
    "parts",
    [
        [request(b"x: " + b"a" * 65_536 + b"\r\n")],
        [request(*[b"x%d: %s\r\n" % (i, b"a" * 90) for i in range(700)])],
        [b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nx: ", *[b"a" * 4_096] * 16],  # a line that never ends
        [b"GET / HTTP/1.1\r\n", *[b"x: a\r\n" * 600] * 16],  # a head that never ends
    ],
    ids=["one-header", "many-headers", "path", "endless-line", "endless-head"],
)
async def test_a_larger_head_is_431_and_the_connection_ends(port: int, parts: list[bytes]) -> None:
    connection = await Connection.open(port)
    await connection.send(*parts)
    status, headers, problem = await connection.answer()
    assert (status, problem["status"], problem["code"]) == (431, 431, "headers_too_large")
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"]
    assert await connection.ended()


async def test_each_request_of_a_connection_is_measured_by_itself(port: int) -> None:
    connection = await Connection.open(port)
    for _ in range(5):
        await connection.send(request(b"x: " + b"a" * 20_000 + b"\r\n", body=b"b" * 50_000))
        assert (await connection.answer())[0] == 200


async def test_pipelined_requests_are_all_answered(port: int) -> None:
    connection = await Connection.open(port)
    await connection.send(request(b"x: " + b"a" * 9_000 + b"\r\n", body=b"b" * 9_000) * 8)
    assert [(await connection.answer())[0] for _ in range(8)] == [200] * 8


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET  HTTP\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"],
)
async def test_what_is_not_http_is_a_400_problem(port: int, garbage: bytes) -> None:
    connection = await Connection.open(port)
    await connection.send(garbage)
    status, headers, problem = await connection.answer()
    assert (status, problem["code"]) == (400, "bad_request")
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost: loc"], ids=["silent", "half-a-head"])
async def test_a_head_that_does_not_come_ends_the_connection(
    port: int, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_SECONDS", 0.01)
    connection = await Connection.open(port)
    await connection.send(begun)
    assert await connection.ended()


async def test_a_second_head_that_does_not_come_ends_the_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await Connection.open(port)
    await connection.send(request())
    assert (await connection.answer())[0] == 200
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_SECONDS", 0.01)
    await connection.send(b"GET / HT")
    assert await connection.ended()
