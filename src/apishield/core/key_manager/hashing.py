"""How secrets are kept: HMAC-SHA-256(pepper, SHA-256(secret)).

The inner hash lets a tenant import keys of which it holds only SHA-256; the pepper, which is not in the database, makes
a stolen database useless for guessing. A slow password hash would protect nothing here: a secret has 178 random bits.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

SHA256_BYTES = 32


def digest(pepper: bytes, secret: str) -> bytes:
    """The stored form of a secret, 32 bytes. Takes any text, lone surrogates included."""
    return hmac.digest(pepper, sha256(secret.encode("utf-8", "surrogatepass")).digest(), "sha256")


def digest_of_hash(pepper: bytes, secret_sha256: bytes) -> bytes:
    """The stored form of a secret of which only the SHA-256 is known."""
    if len(secret_sha256) != SHA256_BYTES:
        message = f"a SHA-256 has {SHA256_BYTES} bytes, not {len(secret_sha256)}"
        raise ValueError(message)
    return hmac.digest(pepper, secret_sha256, "sha256")
