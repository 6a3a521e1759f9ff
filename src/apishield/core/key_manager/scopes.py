"""Scopes: what a caller's key may do. ``read``, ``write``, ``admin`` (which includes both), and a tenant's own words.

A held scope that ends in ``*`` after a colon stands for everything below it: ``orders:*`` covers ``orders:read`` and
``orders:items:read``, not ``orders``. ``*`` alone covers everything.

Source of the characters: RFC 6749, section 3.3 (``scope-token``), so that OAuth's scopes can be taken over as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

MAX_SCOPE_LENGTH = 100
DEFAULT_SCOPES = ("read", "write")
"""What a caller's key may do where whoever makes it says nothing of it; a service key has no scopes."""

_INCLUDED_IN_ADMIN = frozenset({"read", "write"})
_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CHARACTERS = frozenset(map(chr, range(0x21, 0x7F))) - set('"\\')


def satisfies(held: Iterable[str], needed: str) -> bool:
    """Whether one of the ``held`` scopes covers ``needed``."""
    for scope in held:
        if scope == needed or (scope == "admin" and needed in _INCLUDED_IN_ADMIN):
            return True
        if scope.endswith("*") and needed.startswith(scope[:-1]) and len(needed) >= len(scope):
            return True
    return False


def default_scope(method: str) -> Literal["read", "write"]:
    """The scope that a method needs where its endpoint names none."""
    return "read" if method in _READING_METHODS or method.upper() in _READING_METHODS else "write"


def fault(scope: str) -> str | None:
    """What is wrong with a scope, in words; ``None`` where it can be used."""
    if not 1 <= len(scope) <= MAX_SCOPE_LENGTH:
        return f"a scope has 1 to {MAX_SCOPE_LENGTH} characters, this one has {len(scope)}"
    if not _CHARACTERS.issuperset(scope):
        return f"{scope!a} is not printable ASCII without spaces, quotes and backslashes"
    if "*" in scope and scope != "*" and not (scope.endswith(":*") and scope.count("*") == 1 and len(scope) > 2):
        return f"{scope!a} has a * that does not stand for a whole last part, as in orders:*"
    return None
