"""What an endpoint is called that no catalogue names: its path, with what varies from request to request as ``{id}``.

It is a guess from the look of each segment, as nothing else is known. It errs on the side of fewer names: two routes in one
name can be told apart by a catalogue, a name for each customer would drown the table. What it misses is caught by the ceiling
on names that the ledger keeps.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

PLACEHOLDER: Final = "{id}"
REST: Final = "…"
MAX_SEGMENTS: Final = 8
MAX_SEGMENT: Final = 64

_VERSION = re.compile(
    r"v\d{1,4}(?:p\d{1,2})?(?:[._-]?(?:alpha|beta|rc|preview)\d{0,3})?|\d{1,2}\.\d{1,2}", re.IGNORECASE
)
_NAME = re.compile(r"[\w.~:+-]+")  # all other characters stand in values: e-mail addresses, lists, escapes, OData keys
_NUMBER = re.compile(r"[+-]?\d[\d.,:_+-]*")  # 12, -0.5, 10.0.0.1, 2026-11-23, 1-2-3
_DATE = re.compile(r"\d{4}-\d{2}(?:-\d{2}.*)?|\d{4}-?[QWqw]\d{1,2}")  # 2026-11-23T10:00:00Z, 2026-W47, 2026Q4
_LONG_NUMBER = re.compile(r"\d{5}")
_NUMBERED = re.compile(r"[A-Za-z][\w.~-]*[_.:-]\d{4,}")  # order-1234
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_RUN = re.compile(r"[A-Za-z0-9]+")
_HEX = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_DIGIT = re.compile(r"[0-9]")
_MIXED = re.compile(r"[A-Za-z][0-9]+[A-Za-z]+[0-9]|[0-9][A-Za-z]+[0-9]+[A-Za-z]")  # letters and digits change thrice
_PREFIXED = re.compile(r"[A-Za-z]{1,8}[_-](?=[A-Za-z]*[0-9])[A-Za-z0-9]{12,}")  # cus_9s6XKzkNRiz8i3


def collapse(path: str | None) -> str:
    """The name of the endpoint at ``path``: ``/v1/orders/1234/items`` is ``/v1/orders/{id}/items``.

    Numbers, dates, UUIDs, hashes, tokens, prefixed ids and addresses of e-mail become ``{id}``; what stands behind
    ``MAX_SEGMENTS`` segments becomes ``…``. ``None`` and ``""`` are ``""``. A name collapses to itself.
    """
    if not path:
        return ""
    segments = [segment for segment in path.split("/") if segment]
    names = [_name(segment) for segment in segments[:MAX_SEGMENTS]]
    if len(segments) > MAX_SEGMENTS:
        names.append(REST)
    return "/" + "/".join(names)


def _name(segment: str) -> str:
    if segment.isalpha() and len(segment) < 16:
        return segment
    return PLACEHOLDER if segment.isdecimal() or _varies(segment) else segment


@lru_cache(maxsize=4096)  # names come again, values seldom do
def _varies(segment: str) -> bool:
    """Whether ``segment`` looks like a value rather than the name of something."""
    if len(segment) > MAX_SEGMENT or _NAME.fullmatch(segment) is None:
        return True
    if _VERSION.fullmatch(segment) is not None:
        return False
    if _DIGIT.search(segment) is not None and any(
        pattern.fullmatch(segment) is not None for pattern in (_NUMBER, _DATE, _UUID, _NUMBERED, _PREFIXED)
    ):
        return True
    return any(_is_token(run) for run in _RUN.findall(segment))


def _is_token(run: str) -> bool:
    """Whether letters and digits without a break are too random, or too many, for a word."""
    length = len(run)
    if length >= 32 or (length >= 16 and _HEX.fullmatch(run) is not None):
        return True
    digits = len(_DIGIT.findall(run))
    if not digits or length < 5:
        return False
    if _LONG_NUMBER.search(run) is not None or (length >= 20 and digits >= 2):
        return True
    return length >= 8 and _MIXED.search(run) is not None
