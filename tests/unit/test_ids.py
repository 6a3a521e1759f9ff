"""Ids sort by time, are of one form, and never collide by chance."""

from __future__ import annotations

import secrets
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.ids import is_id, new_id
from tests.support.clock import START_US

instants = st.integers(min_value=0, max_value=2**47 * 1000)


@given(first=instants, later_by_us=st.integers(min_value=1, max_value=10**12))
def test_ids_of_later_microseconds_sort_later(first: int, later_by_us: int) -> None:
    assert new_id("key", first, secrets.token_bytes) < new_id("key", first + later_by_us, secrets.token_bytes)


@given(now_us=instants)
def test_an_id_is_a_uuid_of_version_7_with_its_time_in_front(now_us: int) -> None:
    digits = new_id("ten", now_us, secrets.token_bytes).removeprefix("ten_")
    value = UUID(int=int(digits.upper(), 32) >> 2)
    assert value.version == 7
    assert value.variant == "specified in RFC 4122"
    assert value.int >> 80 == now_us // 1000


def test_ids_of_the_same_moment_differ_by_their_random_bits() -> None:
    assert len({new_id("key", START_US, secrets.token_bytes) for _ in range(1000)}) == 1000


def test_what_was_made_is_recognised() -> None:
    assert is_id("key", new_id("key", START_US, secrets.token_bytes))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "key",
        "key_",
        "ten_06dnd0g2v5v7h3m8k1q0p2r4t6",
        "key_06DND0G2V5V7H3M8K1Q0P2R4T6",
        "key_06dnd0g2v5v7h3m8k1q0p2r4t\0",
    ],
)
def test_anything_else_is_no_id(text: str) -> None:
    assert not is_id("key", text)
