"""Answers that are sent piece by piece: only while there is room and somebody reads, and only where a body is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from apishield.api.middleware.head import HEAD_ONLY

log = structlog.get_logger("apishield.streams")

PART_BYTES: Final = 65_536
"""More is not written at once: who reads this much within the patience is slow, and not gone."""


class HeldResponse(StreamingResponse):
    """A stream that takes ``room`` until its end, however it ends. Where there is none, nothing is sent.

    It ends where a part of it is not taken within ``patience_seconds``.
    """

    room: AbstractContextManager[None] = nullcontext()
    patience_seconds = 60.0

    def __init__(self, pieces: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer, until its end or until whoever reads it has gone."""

        async def send_patiently(message: Message) -> None:
            for part in _parts(message):
                await self._send_part(part, send)

        async with aclosing(self._pieces):
            with suppress(ClientDisconnect), self.room:
                await super().__call__(scope, receive, send_patiently)

    async def _send_part(self, part: Message, send: Send) -> None:
        try:
            async with asyncio.timeout(self.patience_seconds) as patience:
                await send(part)
        except TimeoutError as error:
            if not patience.expired():
                raise
            log.info("stream.not_read", media_type=self.media_type, seconds=self.patience_seconds)
            raise ClientDisconnect from error


def _parts(message: Message) -> Iterator[Message]:
    """The message, in parts where its body is large."""
    body = message.get("body", b"")
    if len(body) <= PART_BYTES:
        yield message
        return
    for start in range(0, len(body), PART_BYTES):
        is_last = start + PART_BYTES >= len(body)
        more = message.get("more_body", False) if is_last else True
        yield {**message, "body": body[start : start + PART_BYTES], "more_body": more}


def streamed(
    request: Request,
    pieces: AsyncGenerator[bytes, None],
    media_type: str,
    headers: Mapping[str, str],
    room: AbstractContextManager[None],
    *,
    patience_seconds: float,
) -> Response:
    """``pieces`` as the answer, held in ``room``; to a HEAD its headers only, as nobody would read the rest."""
    if request.scope.get(HEAD_ONLY):
        return Response(media_type=media_type, headers=headers)
    response = HeldResponse(pieces, media_type, headers)
    response.room = room
    response.patience_seconds = patience_seconds
    return response
