"""Counters' keys: no two subjects share one, and no subject moves it to another slot."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from apishield.core.counter_keys import counter_key, hash_tag, limit_keys, subject_text, text_of
from apishield.core.model import Algorithm, FixedWindow, Limit, SlidingWindow

nasty = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="{}|=:%#a\x00\n é", max_size=12),
    st.text(alphabet=st.characters(categories=["Cs"]), min_size=1, max_size=3),
    st.builds(lambda c, n: c * n, st.characters(), st.sampled_from([63, 64, 65, 4096])),
)
subjects = st.dictionaries(nasty, nasty, max_size=3)
names = st.tuples(nasty, st.sampled_from(["live", "test"]), nasty, subjects)


def key_of(tenant_id: str, environment: str, limit_id: str, subject: dict[str, str]) -> str:
    return counter_key(tenant_id, environment, limit(limit_id), subject)


def limit(limit_id: str, rule: Algorithm = FixedWindow(1, 1_000_000)) -> Limit:  # noqa: B008  it is frozen
    return Limit(id=limit_id, name="x", algorithm=rule)


@given(one=names, other=names)
@example(one=("t", "live", "l", {"a": "b|c=d"}), other=("t", "live", "l", {"a": "b", "c": "d"}))
@example(one=("t", "live", "l", {"a": ""}), other=("t", "live", "l", {"a": "%"}))
@example(one=("t", "live", "l", {"a": "%7B"}), other=("t", "live", "l", {"a": "{"}))
@example(one=("t|live", "live", "l", {}), other=("t", "live", "live|l", {}))
@example(one=("", "live", "l", {}), other=("%", "live", "l", {}))
def test_keys_are_the_same_only_where_everything_is(
    one: tuple[str, str, str, dict[str, str]], other: tuple[str, str, str, dict[str, str]]
) -> None:
    assert (key_of(*one) == key_of(*other)) == (one == other)


@given(name=names)
@example(name=("", "live", "", {"": ""}))
def test_a_tenants_keys_lie_in_one_slot_whatever_the_subject(name: tuple[str, str, str, dict[str, str]]) -> None:
    tenant_id, environment, limit_id, _ = name
    key, plain = key_of(*name), key_of(tenant_id, environment, limit_id, {"ip": "192.0.2.1"})
    assert key_slot(key.encode()) == key_slot(plain.encode()) == key_slot((hash_tag(key) + "}").encode())


@given(name=names)
def test_a_key_is_what_its_limits_keys_begin_with_and_its_subject(name: tuple[str, str, str, dict[str, str]]) -> None:
    tenant_id, environment, limit_id, subject = name
    keys = limit_keys(tenant_id, environment, limit(limit_id))
    assert key_of(*name) == keys.prefix + text_of(subject)
    assert subject_text(key_of(*name)) == text_of(subject)


@given(name=names)
def test_keys_are_short_printable_ascii(name: tuple[str, str, str, dict[str, str]]) -> None:
    key = key_of(*name)
    assert key.isascii()
    assert key.isprintable()
    assert len(key) <= 3 * 3 * 64 + 3 * 2 * 3 * 65


def test_the_order_of_a_subjects_parts_does_not_matter() -> None:
    assert key_of("t", "live", "l", {"ip": "a", "key": "b"}) == key_of("t", "live", "l", {"key": "b", "ip": "a"})


def test_addresses_are_readable_in_keys() -> None:
    assert key_of("ten_1", "live", "lim_1", {"ip": "2001:db8::/64"}) == "as:{ten_1}|live|lim_1|fw|ip=2001:db8::/64"


def test_the_algorithm_is_part_of_the_key_and_its_numbers_are_not() -> None:
    subject = {"key": "key_1"}
    fixed, other = limit("l"), limit("l", FixedWindow(99, 60_000_000))
    sliding = limit("l", SlidingWindow(1, 1_000_000))
    assert counter_key("t", "live", fixed, subject) == counter_key("t", "live", other, subject)
    assert counter_key("t", "live", fixed, subject) != counter_key("t", "live", sliding, subject)


@pytest.mark.parametrize("subject", [{}, {"overflow": ""}, {"": "overflow"}])
def test_no_subject_has_the_key_of_the_overflow(subject: dict[str, str]) -> None:
    assert counter_key("t", "live", limit("l"), subject) != limit_keys("t", "live", limit("l")).overflow
