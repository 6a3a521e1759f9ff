"""Ids of decisions can't be guessed, belong to one tenant, and tell where the event lies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apishield.core.decision_ids import DecisionIds

KEY = b"k" * 32


@given(spool=st.integers(0, 2**32 - 1), at_us=st.integers(0, 2**47 * 1000), count=st.integers(1, 3))
def test_an_id_tells_when_and_where_to_its_own_tenant_only(spool: int, at_us: int, count: int) -> None:
    ids = DecisionIds([KEY], spool)
    made = [ids.make("ten_a", at_us) for _ in range(count)]
    reference = ids.read(made[-1], "ten_a")
    assert reference == (at_us // 1000, spool, count, False)
    assert ids.read(made[-1], "ten_b") is None
    assert DecisionIds([b"x" * 32], spool).read(made[-1], "ten_a") is None
    assert len(set(made)) == count


def test_ids_sort_by_time() -> None:
    ids = DecisionIds([KEY], 7)
    made = [ids.make("ten_a", at_us) for at_us in (1_000_000, 2_000_000, 2_000_000, 1_763_900_000_000_000)]
    assert made == sorted(made)


def test_the_uuid_inside_is_a_version_7() -> None:
    digits = DecisionIds([KEY], 0xFFFF_FFFF).make("ten_a", 1_763_900_000_000_000)[4:30]
    number = 0
    for digit in digits:
        number = number * 32 + "0123456789abcdefghijklmnopqrstuv".index(digit)
    assert number >> 76 & 0xF == 7
    assert number >> 62 & 0x3 == 2


def test_each_digit_of_the_mac_takes_every_value() -> None:
    ids = DecisionIds([KEY], 7)
    macs = [ids.make("ten_a", 1_763_900_000_000_000)[30:] for _ in range(1000)]
    assert [len(set(digits)) for digits in zip(*macs, strict=True)] == [32] * 13


@given(st.text(max_size=60))
def test_garbage_is_no_id(text: str) -> None:
    ids = DecisionIds([KEY], 1)
    assert ids.read(text, "ten_a") is None
    assert ids.read(("dec_" + text).ljust(43, "0")[:43], "ten_a") is None


@given(st.integers(4, 42), st.sampled_from("0123456789abcdefghijklmnopqrstuv"))
def test_one_changed_character_is_noticed(place: int, character: str) -> None:
    ids = DecisionIds([KEY], 1)
    made = ids.make("ten_a", 1_763_900_000_000_000)
    changed = made[:place] + character + made[place + 1 :]
    assert changed == made or ids.read(changed, "ten_a") is None


def test_ids_made_under_an_older_key_are_still_known_after_its_rotation() -> None:
    made = DecisionIds([KEY], 1).make("ten_a", 1_763_900_000_000_000)
    rotated = DecisionIds([b"n" * 32, KEY], 2)
    assert rotated.read(made, "ten_a") is not None
    assert DecisionIds([KEY], 1).read(rotated.make("ten_a", 1_763_900_000_000_000), "ten_a") is None


def test_an_id_says_whether_there_is_something_to_settle() -> None:
    ids = DecisionIds([KEY], 0xFFFF_FFFF)
    held = ids.read(ids.make("ten_a", 1_763_900_000_000_000, held=True), "ten_a")
    assert held is not None
    assert held.held
    assert (held.spool, held.sequence) == (0xFFFF_FFFF, 1)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**47 * 1000), st.booleans())
def test_an_id_can_be_written_again_from_its_place_by_any_process(spool: int, at_us: int, held: bool) -> None:
    made = DecisionIds([KEY], spool).make("ten_a", at_us, held=held)
    other = DecisionIds([KEY], 1)
    reference = other.read_unproven(made)
    assert reference is not None
    assert reference == other.read(made, "ten_a")
    assert other.write("ten_a", reference) == made
