"""Whatever passes the checks can be kept by both databases and comes back as it was; the rest is refused, never a crash."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from apishield.core.key_manager import scopes
from apishield.core.records import Metadata
from apishield.services.checks import MAX_METADATA_BYTES, Faults
from apishield.stores.sql.types import Document

any_text = st.text(alphabet=st.characters(), max_size=300)  # lone surrogates included
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
documents: st.SearchStrategy[Metadata] = st.dictionaries(any_text, any_json, max_size=4)


def passes(check: Faults) -> bool:
    return not check.found


@given(value=any_text)
def test_a_text_that_passes_has_nothing_that_a_database_or_a_log_line_would_choke_on(value: str) -> None:
    faults = Faults()
    faults.text("/name", value)
    if passes(faults):
        assert value.encode("utf-8").decode() == value
        assert not {"\0", "\n", "\r", "\x1b"} & set(value)
        assert 1 <= len(value) <= 200


@given(value=documents)
def test_metadata_that_passes_comes_back_as_it_was(value: Metadata) -> None:
    faults = Faults()
    faults.metadata("/metadata", value)
    if passes(faults):
        column = Document(dict)
        stored = column.process_bind_param(value, sqlite.dialect())
        assert stored is not None
        assert "\0" not in stored
        assert len(stored.encode()) <= MAX_METADATA_BYTES
        assert column.process_result_value(stored, sqlite.dialect()) == value


def test_metadata_as_deep_as_a_stack_is_refused() -> None:
    deep: Metadata = {}
    for _ in range(100_000):
        deep = {"a": deep}
    faults = Faults()
    faults.metadata("/metadata", deep)
    assert not passes(faults)
    while deep:  # let go of it level by level: the interpreter would recurse
        deep = deep.pop("a")


@given(value=st.lists(any_text, max_size=5))
def test_scopes_that_pass_are_sound_and_distinct(value: list[str]) -> None:
    faults = Faults()
    kept = faults.scopes("/scopes", value)
    if passes(faults):
        assert all(scopes.fault(scope) is None for scope in kept)
        assert sorted(kept) == sorted(set(value))


@given(
    value=st.lists(any_text | st.ip_addresses().map(str) | st.sampled_from(["10.0.0.0/8", "10.0.0.1/8"]), max_size=5)
)
def test_networks_that_pass_are_in_one_spelling(value: list[str]) -> None:
    faults = Faults()
    kept = faults.networks("/allowed_ips", value)
    if passes(faults):
        again = Faults()
        assert again.networks("/allowed_ips", kept) == kept
        assert passes(again)
        assert msgspec.json.encode(kept).isascii()
