"""Bodies of the data plane: bounded reading, strict decoding, and faults that name the field."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TypeVar

import msgspec
from starlette.types import Receive

from apishield.api.middleware.bounds import MAX_BODY_BYTES
from apishield.errors import Fault, ProblemError

Body = TypeVar("Body")
_AT = re.compile(r" - at `(key` in `)?\$?(.*)`$")
_INDEX = re.compile(r"\[(\d+)\]")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`$")
_ESCAPES = re.compile(
    rb"\\\\|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][\da-fA-F]{2})"
)
_ENTRY = "[...]"  # how msgspec names a value of a map, whichever it is
_SHOWN_LENGTH = 40
_SEARCHED_BYTES = (
    16 * 1024
)  # looked through for the name of a faulty entry: it takes several decodings, while others wait


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
        raise _invalid(decoder, body, str(error)) from None
    except msgspec.DecodeError as error:
        raise ProblemError("malformed_json", f"The body is not JSON: {error}." if body else _EMPTY) from None
    except (UnicodeDecodeError, RecursionError):
        raise ProblemError("malformed_json", "The body is not UTF-8, or nested beyond any use.") from None


def decode_items(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """``decode``, of items that are left as they stand there, to be read one by one: none spoils the others.

    An escaped half of a surrogate pair, which JavaScript writes of text that was cut, is no text. msgspec gives up the whole
    body for it; so what only its item can't be read for is put in its place.
    """
    try:
        return decode(decoder, body)
    except ProblemError:
        spoilt = _ESCAPES.sub(_spoil, body)
        if spoilt == body:
            raise
        return decode(decoder, spoilt)


def _spoil(escape: re.Match[bytes]) -> bytes:
    return b"\xff" if escape.lastgroup else escape[0]


_EMPTY = "The body is empty; send a JSON object."


def _invalid(decoder: msgspec.json.Decoder[Body], body: bytes, text: str) -> ProblemError:
    """msgspec says ``Expected `str`, got `int` - at `$.checks[0].path```; a pointer is ``/checks/0/path``."""
    found = _AT.search(text)
    message = text[: found.start()] if found is not None else text
    path = found.group(2) if found is not None else ""
    entry = None
    if path.endswith(_ENTRY) or (found is not None and found.group(1)):
        path = path.removesuffix(_ENTRY)
        entry = _entry(decoder, body, text, path)
    elif unknown := _UNKNOWN.search(message):
        entry, message = unknown.group(1), "is not a field that is known here"
    elif missing := _MISSING.search(message):
        entry, message = missing.group(1), "is missing"
    if not message.startswith("is "):
        message = message[:1].lower() + message[1:].replace("`", "")
    pointer, name = _INDEX.sub(r"/\1", path).replace(".", "/"), path.lstrip(".")
    if entry is not None:
        shown = entry if len(entry) <= _SHOWN_LENGTH else f"{entry[:_SHOWN_LENGTH]}…"
        pointer += "/" + shown.replace("~", "~0").replace("/", "~1")
        name = f"{name}.{shown}".lstrip(".")
    joint = " " if message.startswith("is ") else ": "
    return ProblemError("validation_failed", f"{name or 'The body'}{joint}{message}.", faults=[Fault(pointer, message)])


def _entry(decoder: msgspec.json.Decoder[Body], body: bytes, text: str, path: str) -> str | None:
    """The name in the map at ``path`` at which decoding ends with ``text``: the last of the shortest part that does.

    Halving makes it few decodings even of a large map. ``None`` where it can't be told, as in a body that is cut off, and where
    to tell it would hold everybody up.
    """
    if len(body) > _SEARCHED_BYTES:
        return None
    try:
        whole = part = msgspec.json.decode(body)
        for name, index in _STEP.findall(path):
            part = part[int(index)] if index else part[name]
        entries = list(part.items())

        def fails(count: int) -> bool:
            part.clear()
            part.update(entries[:count])
            try:
                decoder.decode(msgspec.json.encode(whole))
            except msgspec.ValidationError as error:
                return str(error) == text
            return False

        place = bisect_left(range(1, len(entries) + 1), True, key=fails)
    except (msgspec.MsgspecError, LookupError, AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    return entries[place][0] if place < len(entries) else None


def too_large() -> ProblemError:
    """The body is over 1 MiB."""
    return ProblemError(
        "body_too_large",
        f"The body is over {MAX_BODY_BYTES} bytes (1 MiB). Send less at once.",
        headers={"Connection": "close"},
    )
