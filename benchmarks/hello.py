"""A bare route on the server that APIShield runs on: what HTTP costs before any engine does."""

from __future__ import annotations

import sys

import uvicorn
from starlette.types import Receive, Scope, Send

from apishield.cli.protocol import BoundedHttpProtocol

BODY = b'{"hello":"world"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and answers always the same."""
    assert scope["type"] == "http"
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    uvicorn.run(
        hello,
        port=int(sys.argv[1]),
        interface="asgi3",
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
    )
