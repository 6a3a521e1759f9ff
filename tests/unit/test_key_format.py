"""Secrets: one form, unbiased, a checksum that finds every slip, hints that show little."""

from __future__ import annotations

import secrets
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.key_manager.format import ALPHABET, Inspection, SecretKind, hint, inspect, make_secret

kinds = st.sampled_from(list(SecretKind))


@given(kind=kinds)
def test_a_new_secret_is_intact_and_of_its_kind(kind: SecretKind) -> None:
    secret = make_secret(kind, secrets.token_bytes)
    assert len(secret) == len(kind) + 36
    assert inspect(secret) == Inspection(kind, intact=True)


@given(kind=kinds, place=st.integers(min_value=0, max_value=35), letter=st.sampled_from(ALPHABET))
def test_one_mistyped_character_is_found(kind: SecretKind, place: int, letter: str) -> None:
    secret = make_secret(kind, secrets.token_bytes)
    at = len(kind) + place
    mistyped = secret[:at] + letter + secret[at + 1 :]
    assert inspect(mistyped).intact is (mistyped == secret)


@given(text=st.text() | st.builds(str.__add__, kinds, st.text()))
def test_inspecting_never_raises_and_never_takes_noise_for_a_secret(text: str) -> None:
    assert not inspect(text).intact


def test_lone_surrogates_and_foreign_digits_are_no_secret() -> None:
    body = "sk_live_" + "0" * 35
    assert inspect(body + "\ud800") == Inspection(SecretKind.LIVE_KEY, intact=False)
    assert inspect(body + "٣") == Inspection(SecretKind.LIVE_KEY, intact=False)


def test_every_character_is_drawn_alike() -> None:
    """Each character comes from exactly four of the 256 bytes; the eight that are left over are drawn again."""
    redrawn = "redrawn"

    def letter_of(byte: int) -> str:
        draws = iter([byte, None])
        letters = {ALPHABET[0]: redrawn} if byte >= 248 else {}

        def entropy(count: int) -> bytes:
            drawn = next(draws)
            return bytes(count) if drawn is None else bytes([drawn]) * count

        letter = make_secret("", entropy)[0]
        return letters.get(letter, letter)

    times = Counter(letter_of(byte) for byte in range(256))
    assert times == dict.fromkeys(ALPHABET, 4) | {redrawn: 8}


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("sk_live_AbCDEFGHIJKLMNOPQRSTUVWXYZ01234567899Zk2", "sk_live_Ab…9Zk2"),
        ("an-older-key-of-another-form", "an…rm"),
    ],
)
def test_a_hint_shows_the_first_and_last_characters(secret: str, shown: str) -> None:
    assert hint(secret) == shown
