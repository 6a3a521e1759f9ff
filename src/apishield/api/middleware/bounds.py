"""What a request may weigh and carry, checked before anything reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apishield.errors import ProblemError

MAX_BODY_BYTES = 1024 * 1024
MAX_HEADER_BYTES = 32 * 1024

# Names under which people put secrets into URLs, and the shape of our own wherever it stands.
_QUERY_CREDENTIAL = re.compile(
    rb"(?:^|&)(?:api[-_]?key|x-api-key|access[-_]?token|token|authorization)=|=(?:sk_live|sk_test|ast|aso|whsec)_[0-9A-Za-z]{20}",
    re.IGNORECASE,
)


class BoundsMiddleware:
    """Refuses oversized headers (431), credentials in the URL (400) and bodies over 1 MiB (413), announced or streamed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        check_headers(scope["headers"])
        check_query(scope["query_string"])
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
            raise _too_large()
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > MAX_BODY_BYTES:
                    raise _too_large()
            return message

        await self.app(scope, receive_bounded, send)


def check_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises ``headers_too_large`` where all names and values together are over 32 KiB."""
    total = sum(len(name) + len(value) for name, value in headers)
    if total > MAX_HEADER_BYTES:
        raise ProblemError("headers_too_large", f"The headers have {total} bytes; at most {MAX_HEADER_BYTES} are read.")


def check_query(query: bytes) -> None:
    """Raises ``credential_in_query`` where ``query`` holds what looks like a credential: URLs end up in logs and histories."""
    if query and _QUERY_CREDENTIAL.search(query):
        raise ProblemError(
            "credential_in_query",
            "The query string holds a credential. Send it as 'Authorization: Bearer …', and rotate this one: URLs are logged.",
        )


def _too_large() -> ProblemError:
    return ProblemError(
        "body_too_large",
        f"The body is over {MAX_BODY_BYTES} bytes (1 MiB). Send less at once.",
        headers={"Connection": "close"},
    )
