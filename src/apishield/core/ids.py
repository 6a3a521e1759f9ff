"""Ids: a prefix that says what it names, and a UUIDv7 that sorts by the time it was made.

``key_06dnd0g2v5v7h3m8k1q0p2r4t6``: 26 lower-case digits of base 32 (0-9, a-v) after the prefix, so that the order of
the texts is the order of the ids.

Sources: RFC 9562, section 5.7 (UUIDv7) and 6.2, method 3 (the clock's fraction below a millisecond); RFC 4648,
section 7 (base32hex).
"""

from __future__ import annotations

from base64 import b32hexencode
from collections.abc import Callable

PREFIXES = frozenset(
    "ten key tok cus pol blk alw inc dec whk pln sub inv aud req lim end nod rpl".split()  # noqa: SIM905  reads as the contract's list
)

_DIGITS = frozenset("0123456789abcdefghijklmnopqrstuv")
_LENGTH = 26
_LATEST_MS = 2**48 - 1


def new_id(prefix: str, now_us: int, entropy: Callable[[int], bytes]) -> str:
    """Makes an id, ``<prefix>_<26 digits>``.

    Ids of different microseconds sort by time to within a quarter of one; the other 62 bits are random.
    """
    milliseconds, microseconds = divmod(now_us, 1000)
    fraction = microseconds * 4096 // 1000
    tail = int.from_bytes(entropy(8), "big") & (2**62 - 1)
    value = (min(milliseconds, _LATEST_MS) << 80) | (7 << 76) | (fraction << 64) | (2 << 62) | tail
    return f"{prefix}_{b32hexencode(value.to_bytes(16, 'big')).decode()[:_LENGTH].lower()}"


def is_id(prefix: str, text: str) -> bool:
    """Whether ``text`` could be an id with this prefix; anything else names nothing, so no database need be asked."""
    head, separator, digits = text.partition("_")
    return head == prefix and bool(separator) and len(digits) == _LENGTH and _DIGITS.issuperset(digits)
