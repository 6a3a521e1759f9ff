"""Mistakes that people make, for tests of what they are told."""

from __future__ import annotations


def mistype(secret: str) -> str:
    """``secret`` with another last character, whatever the last one is."""
    return secret[:-1] + ("1" if secret[-1] == "0" else "0")
