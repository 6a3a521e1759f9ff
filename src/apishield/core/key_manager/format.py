"""The form of a secret: a prefix, 30 random characters, 6 characters of checksum.

``sk_live_``, 30 digits of base 62, CRC-32 in base 62: a mistyped or invented secret is told apart without any look-up,
and secret scanners recognise one that leaked. 30 digits of base 62 are 178 bits.

Source of the idea: GitHub's token format (2021), https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple
from zlib import crc32

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_LENGTH = 30
CHECKSUM_LENGTH = 6

_UNBIASED_BELOW = 256 - 256 % len(ALPHABET)
_PAIRS = tuple(high + low for high in ALPHABET for low in ALPHABET)


class SecretKind(StrEnum):
    """What a secret's prefix says it is."""

    LIVE_KEY = "sk_live_"
    TEST_KEY = "sk_test_"
    TENANT_TOKEN = "ast_"  # noqa: S105  a prefix
    OPERATOR_TOKEN = "aso_"  # noqa: S105  a prefix


class Inspection(NamedTuple):
    """What a text shows of itself. ``kind`` is ``None`` for a foreign form, such as an imported key's."""

    kind: SecretKind | None
    intact: bool


_FOREIGN = Inspection(None, intact=False)
_INTACT = {kind: Inspection(kind, intact=True) for kind in SecretKind}
_MISTYPED = {kind: Inspection(kind, intact=False) for kind in SecretKind}


def make_secret(prefix: str, entropy: Callable[[int], bytes]) -> str:
    """Makes a new secret. Every character is drawn alike: bytes that would favour some characters are thrown away."""
    letters: list[str] = []
    while len(letters) < RANDOM_LENGTH:
        letters += [ALPHABET[byte % 62] for byte in entropy(RANDOM_LENGTH + 8) if byte < _UNBIASED_BELOW]
    body = prefix + "".join(letters[:RANDOM_LENGTH])
    return body + _checksum(body)


def inspect(secret: str) -> Inspection:
    """Says which kind of secret this is, and whether it is complete and its checksum right. Never raises."""
    kind = _kind(secret)
    if kind is None:
        return _FOREIGN
    tail = secret[len(kind) :]
    if len(tail) != RANDOM_LENGTH + CHECKSUM_LENGTH or not (tail.isascii() and tail.isalnum()):
        return _MISTYPED[kind]
    body = secret[:-CHECKSUM_LENGTH]
    return _INTACT[kind] if _checksum(body) == secret[-CHECKSUM_LENGTH:] else _MISTYPED[kind]


def hint(secret: str) -> str:
    """What may be shown of a secret: ``sk_live_Ab…9Zk2``. One of a foreign form shows two characters a side."""
    kind = _kind(secret)
    if kind is None:
        return f"{secret[:2]}…{secret[-2:]}"
    return f"{secret[: len(kind) + 2]}…{secret[-4:]}"


def _kind(secret: str) -> SecretKind | None:
    # Most secrets that are asked for are live keys; the order is by frequency.
    for kind in SecretKind:
        if secret.startswith(kind):
            return kind
    return None


def _checksum(body: str) -> str:
    value = crc32(body.encode("ascii"))
    value, low = divmod(value, 3844)
    high, middle = divmod(value, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]
