"""Runs a POST once per Idempotency-Key: the first answer is kept, and given again to whoever asks the same again.

Owns: the header, what of a request must be the same, which answers are worth keeping. Does not own: where they are kept,
encrypted (``services.idempotency``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from apishield.api.auth import credential_of
from apishield.core.records import Actor
from apishield.errors import Fault, ProblemError
from apishield.services.idempotency import Answer, IdempotencyService, Replay

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
MAX_KEY_CHARACTERS = 255


async def answer_once(
    service: IdempotencyService,
    actor: Actor,
    request: Request,
    *,
    template: str,
    body: Any,
    run: Callable[[], Awaitable[Response]],
) -> Response:
    """The answer of ``run``, or the one that it gave to the same request before.

    ``template`` is the route's path, ``body`` the decoded body. Without the header or without a credential it just runs.
    A refusal (4xx) changed nothing, so it is not kept; after a failure (5xx) nobody knows, so it is never run again.
    """
    secret = credential_of(request.headers)
    if secret is None or HEADER not in request.headers:
        return await run()
    begun = await service.begin(
        actor,
        credential=secret,
        route=f"POST {template}",
        idempotency_key=_key(request),
        request_digest=_digest(request, body),
    )
    if isinstance(begun, Replay):
        return Response(begun.body, begun.status, {REPLAYED_HEADER: "true"}, begun.media_type)
    try:
        response = await run()
    except (ProblemError, RequestValidationError, HTTPException) as error:
        if not isinstance(error, ProblemError) or error.status < 500 or error.code == "storage_full":
            await service.abandon(begun)
        raise
    media_type = response.headers.get("content-type")
    await service.finish(begun, Answer(response.status_code, media_type, bytes(response.body)))
    return response


def _key(request: Request) -> str:
    sent = request.headers.getlist(HEADER)
    key = sent[0]
    if len(sent) > 1 or not 1 <= len(key) <= MAX_KEY_CHARACTERS or not (key.isascii() and key.isprintable()):
        message = f"must be sent once, with 1 to {MAX_KEY_CHARACTERS} printable ASCII characters"
        raise ProblemError("validation_failed", f"{HEADER}: {message}.", faults=[Fault(f"{HEADER}:", message)])
    return key


def _digest(request: Request, body: Any) -> bytes:
    """What must be the same: the path with its ids, the query, and the body's meaning, however it is spelt."""
    parts = [request.url.path, request.url.query, body]
    return sha256(msgspec.json.encode(parts, order="deterministic")).digest()
