"""Names of endpoints: stable, bounded, and the same for all values in one place."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from apishield.analytics.endpoint_names import MAX_SEGMENT, MAX_SEGMENTS, collapse

segments = st.one_of(
    st.text(max_size=80),
    st.from_regex(r"[A-Za-z0-9._~:+@-]{1,70}", fullmatch=True),
    st.sampled_from(["{id}", "…", "v1", "12", "2026-11-23"]),
)
paths = st.lists(segments, max_size=12).map(lambda parts: "/" + "/".join(parts))
identifiers = st.one_of(
    st.integers(0, 10**18).map(str),
    st.uuids().map(str),
    st.uuids().map(lambda value: value.hex),
    st.binary(min_size=20, max_size=20).map(bytes.hex),
    st.dates().map(str),
    st.emails(),
    st.integers(0, 2**60).map(lambda number: f"cus_{uuid.UUID(int=number << 60).hex}"),
)


@given(path=paths)
def test_a_name_collapses_to_itself(path: str) -> None:
    assert collapse(collapse(path)) == collapse(path)


@given(path=st.text() | paths)
def test_a_name_is_bounded(path: str) -> None:
    name = collapse(path)
    assert name.count("/") <= MAX_SEGMENTS + 1
    assert all(len(segment) <= MAX_SEGMENT for segment in name.split("/"))


@given(identifier=identifiers)
def test_identifiers_of_all_kinds_have_one_name(identifier: str) -> None:
    if "/" not in identifier:  # an e-mail address may have one
        assert collapse(f"/v1/customers/{identifier}/orders") == "/v1/customers/{id}/orders"
