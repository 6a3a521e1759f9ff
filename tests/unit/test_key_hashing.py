"""Stored secrets: an imported hash and the secret it is of come out the same; the pepper decides everything."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.key_manager.hashing import REMEMBERED_SECRETS, digest, digest_of_hash, remembering


@given(secret=st.text(), pepper=st.binary(min_size=32, max_size=32))
def test_a_secret_and_its_imported_hash_are_stored_alike(secret: str, pepper: bytes) -> None:
    assert digest(pepper, secret) == digest_of_hash(pepper, sha256(secret.encode()).digest())


def test_another_pepper_gives_another_digest() -> None:
    assert digest(b"1" * 32, "secret") != digest(b"2" * 32, "secret")


def test_a_lone_surrogate_has_a_digest_too() -> None:
    assert len(digest(b"1" * 32, "\ud800")) == 32


def test_what_is_no_sha256_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        digest_of_hash(b"", bytes(31))


def test_a_secret_is_hashed_once_for_each_tenant_that_asks_so_that_none_can_tell_what_others_know() -> None:
    hashed: list[str] = []

    def count(secret: str) -> bytes:
        hashed.append(secret)
        return secret.encode()

    remembered = remembering(count)
    assert [remembered("ten_1", "a"), remembered("ten_1", "a"), remembered("ten_2", "a")] == [b"a"] * 3
    assert hashed == ["a", "a"]
    for number in range(REMEMBERED_SECRETS):
        remembered("ten_1", f"invented {number}")
    remembered("ten_1", "a")
    assert hashed.count("a") == 3  # as many are kept, and no more
