"""Bodies of the data plane: bounded reading, strict decoding, and faults that name the field."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.types import Receive

from apishield.api.middleware.bounds import MAX_BODY_BYTES
from apishield.errors import Fault, ProblemError

Body = TypeVar("Body")
_AT = re.compile(r" - at `\$?(.*)`$")
_INDEX = re.compile(r"\[(\d+)\]")


class ClientDisconnectedError(Exception):
    """Whoever asked has gone before the whole question had come."""


async def read_body(receive: Receive) -> bytes:
    """The whole body. Raises ``body_too_large`` beyond 1 MiB, before reading further."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False) and message["type"] == "http.request":
        if len(body) > MAX_BODY_BYTES:
            raise too_large()
        return body
    parts = [body]
    size = len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise too_large()
    if message["type"] == "http.disconnect":
        raise ClientDisconnectedError
    return b"".join(parts)


def decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """The body as the decoder's type. Raises ``malformed_json`` (400) or ``validation_failed`` (422) with the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise ProblemError("malformed_json", f"The body is not JSON: {error}." if body else _EMPTY) from None
    except (UnicodeDecodeError, RecursionError):
        raise ProblemError("malformed_json", "The body is not UTF-8, or nested beyond any use.") from None


_EMPTY = "The body is empty; send a JSON object."


def _invalid(text: str) -> ProblemError:
    """msgspec says ``Expected `str`, got `int` - at `$.checks[0].path```; a pointer is ``/checks/0/path``."""
    found = _AT.search(text)
    message = text[: found.start()] if found is not None else text
    path = found.group(1) if found is not None else ""
    unknown = re.search(r"unknown field `(.*)`$", message)
    if unknown is not None:
        path += f".{unknown.group(1)}"
        message = "is not a field that is known here"
    else:
        message = message[:1].lower() + message[1:].replace("`", "")
    pointer = _INDEX.sub(r"/\1", path).replace(".", "/")
    name = path.lstrip(".") or "The body"
    joint = ": " if unknown is None else " "
    return ProblemError("validation_failed", f"{name}{joint}{message}.", faults=[Fault(pointer, message)])


def too_large() -> ProblemError:
    """The body is over 1 MiB."""
    return ProblemError(
        "body_too_large",
        f"The body is over {MAX_BODY_BYTES} bytes (1 MiB). Send less at once.",
        headers={"Connection": "close"},
    )
