"""A head that is known is only a shorter way: what is asked, and answered, is the same as if every byte went to the parser."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from typing import Any

import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from apishield.api.dataplane.answers import Answer
from apishield.api.dataplane.heads import KnownHeads
from apishield.cli.protocol import BoundedHttpProtocol


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class NoHeads(KnownHeads):
    """Learns nothing."""

    def learn(self, *_arguments: Any) -> None:
        pass


class App:
    """Answers two direct routes and writes down what it was asked."""

    def __init__(self, heads: KnownHeads) -> None:
        self.heads = heads
        self.asked: list[tuple[list[tuple[bytes, bytes]], bytes]] = []
        self.direct = {(b"POST", b"/now"): self._answer, (b"GET", b"/now"): self._answer}

    def _answer(self, headers: Any, body: bytes) -> Answer:
        self.asked.append((list(headers), body))
        return Answer(200, [], b"%d" % len(self.asked))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.asked.append(([(b"path", scope["raw_path"]), *scope["headers"]], body))
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def talk(heads: KnownHeads, chunks: list[bytes]) -> tuple[Any, bytes]:
    app = App(heads)
    config = uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        interface="asgi3",
    )
    config.load()
    wire = Wire()
    protocol = BoundedHttpProtocol(config, ServerState(), {})
    protocol.connection_made(wire)
    for chunk in chunks:
        if wire.closed:
            break
        protocol.data_received(chunk)
        for _ in range(12):  # turns enough for the longest way of one request
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    return app.asked, re.sub(rb"req_\w+", b"req_", wire.sent)


_lines = st.sampled_from([b"POST /now", b"POST /other", b"GET /now", b"POST /now?x=1"])
_more = st.sampled_from([b"", b"authorization: Bearer a\r\n", b"Authorization: Bearer b\r\n", b"connection: close\r\n",
                         b"expect: 100-continue\r\n", b"transfer-encoding: chunked\r\n", b" folded: x\r\n"])  # fmt: skip
_bodies = st.sampled_from([b"", b"{}", b"POST /now HTTP/1.1\r\nhost: a\r\n\r\n", b"\r\n\r\n"])


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    body, more = draw(_bodies), draw(_more)
    length = len(body) + draw(st.sampled_from([0, 0, 0, 0, -1, 1]))
    said = b"" if b"chunked" in more else b"content-length: %d\r\n" % max(0, length)
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if b"chunked" in more and body else body
    blank = draw(st.sampled_from([b"", b"", b"", b"\r\n", b"\r\n\r\n", b"\n"]))
    return blank + draw(_lines) + b" HTTP/1.1\r\nhost: a\r\n" + said + more + b"\r\n" + sent


_strays = st.sampled_from([b"\r\n\r\n", b"\r\n\r\n{}", b"\r\n", b"\r\n\r\n\r\n\r\n"])


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(_requests() | _strays, min_size=1, max_size=4),
    times=st.integers(1, 4),
    cuts=st.lists(st.integers(1, 400), max_size=4),
    together=st.booleans(),
)
def test_whatever_comes_in_whatever_pieces_is_taken_as_the_parser_takes_it(
    requests: list[bytes], times: int, cuts: list[int], together: bool
) -> None:
    chunks = requests * times
    if together:
        whole = b"".join(chunks)
        bounds = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
        chunks = [whole[start:end] for start, end in pairwise(bounds)]
    with_heads = asyncio.run(talk(KnownHeads(), chunks))
    assert with_heads == asyncio.run(talk(NoHeads(), chunks))


def test_blank_lines_between_requests_are_nobodys_head() -> None:
    heads = KnownHeads()
    victim = b"POST /now HTTP/1.1\r\nhost: a\r\nauthorization: Bearer a\r\ncontent-length: 2\r\n\r\n{}"
    asyncio.run(talk(heads, [victim, b"\r\n\r\n\r\n"]))
    asked, sent = asyncio.run(talk(heads, [b"\r\n\r\n{}"]))
    assert asked == []
    assert sent.startswith(b"HTTP/1.1 400")


def test_a_client_that_repeats_its_head_is_known_by_it() -> None:
    heads = KnownHeads()
    request = b"POST /now HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"
    asked, _ = asyncio.run(talk(heads, [request] * 3))
    assert [body for _, body in asked] == [b"{}"] * 3
    assert heads.get(request[:-2]) is not None
