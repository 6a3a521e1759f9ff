"""Cursors: what a list gave out it takes back, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.errors import ProblemError
from apishield.stores.sql.pagination import make_cursor, read_cursor


def test_a_cursor_is_read_by_the_list_that_made_it() -> None:
    assert (
        read_cursor("keys", make_cursor("keys", "key_06dnd0g2v5v7h3m8k1q0p2r4t6")) == "key_06dnd0g2v5v7h3m8k1q0p2r4t6"
    )


def test_a_cursor_of_another_list_is_refused() -> None:
    with pytest.raises(ProblemError) as caught:
        read_cursor("keys", make_cursor("tokens", "tok_1"))
    assert caught.value.code == "invalid_cursor"


@given(text=st.text())
def test_any_other_text_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        read_cursor("keys", text)
    assert caught.value.code == "invalid_cursor"


def test_a_cursor_with_a_nul_is_refused() -> None:
    with pytest.raises(ProblemError):
        read_cursor("keys", make_cursor("keys", "key_\0"))
