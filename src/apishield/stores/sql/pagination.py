"""Pages of lists: newest first, continued by a cursor that names the last item of the page before.

A cursor is a place, not a secret: lists are read within one tenant whatever the cursor says, so it is not signed. It is
bound to its list, and anything that could not have come from us is refused.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from apishield.errors import Fault, ProblemError

MAX_LIMIT = 100

_MAX_CURSOR_CHARACTERS = 200

Item = TypeVar("Item")


class PageRequest(msgspec.Struct, frozen=True):
    """How many items, and after which."""

    limit: int = 20
    cursor: str | None = None


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """The items, and the cursor of the next page; ``None`` on the last one."""

    items: Sequence[Item]
    next_cursor: str | None = None


def make_cursor(list_name: str, place: str) -> str:
    """The cursor that continues ``list_name`` after ``place``."""
    return urlsafe_b64encode(f"{list_name}:{place}".encode()).decode().rstrip("=")


def read_cursor(list_name: str, cursor: str) -> str:
    """The place that a cursor of ``list_name`` names. Raises 422 ``invalid_cursor``."""
    try:
        if not cursor.isascii() or len(cursor) > _MAX_CURSOR_CHARACTERS:
            raise ValueError
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (Base64Error, ValueError):
        raise invalid_cursor() from None
    name, separator, place = text.partition(":")
    if name != list_name or not separator or not place.isprintable():
        raise invalid_cursor()
    return place


def invalid_cursor() -> ProblemError:
    """The refusal of a cursor."""
    return ProblemError(
        "invalid_cursor",
        "cursor is not one that this list gave out. Pass next_cursor of the page before as it was, with the same path.",
        faults=[Fault("?cursor", "not a cursor of this list")],
    )
