"""Answers that are sent piece by piece: held only while there is room, and not at all where only the headers are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from apishield.api.middleware.head import HEAD_ONLY


class HeldResponse(StreamingResponse):
    """A stream that takes ``room`` until its end, however it ends. Where there is none, nothing is sent."""

    room: AbstractContextManager[None] = nullcontext()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer, until its end or until whoever reads it has gone."""
        with suppress(ClientDisconnect), self.room:
            await super().__call__(scope, receive, send)


def streamed(
    request: Request,
    pieces: AsyncIterator[bytes],
    media_type: str,
    headers: Mapping[str, str],
    room: AbstractContextManager[None] | None = None,
) -> Response:
    """``pieces`` as the answer; to a HEAD its headers only, as nobody would read the rest."""
    if request.scope.get(HEAD_ONLY):
        return Response(media_type=media_type, headers=headers)
    response = HeldResponse(pieces, media_type=media_type, headers=headers)
    if room is not None:
        response.room = room
    return response
