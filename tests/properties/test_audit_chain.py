"""The audit chain: any change, removal, insertion or exchange of entries by whoever lacks the key is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from apishield.core.audit_chain import GENESIS, ChainKey, ChainWalk, Head, entry_mac, make_head
from apishield.core.records import AuditEntry

KEYS = {1: b"1" * 32, 2: b"2" * 32}
TENANT = "ten_1"

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
documents = st.none() | st.dictionaries(
    texts, texts | st.integers(-(2**40), 2**40) | st.booleans() | st.none(), max_size=3
)
contents = st.lists(
    st.fixed_dictionaries(
        {
            "at_us": st.integers(0, 2**53), "actor": texts, "action": texts, "target": texts, "before": documents,
            "after": documents, "address": st.none() | texts, "request_id": st.none() | texts,
        }
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


def chain_of(
    contents: Sequence[dict[str, Any]], version: int = 1, tenant_id: str = TENANT
) -> tuple[list[AuditEntry], Head]:
    key = ChainKey(version, KEYS[version])
    entries: list[AuditEntry] = []
    mac = GENESIS
    for sequence, content in enumerate(contents, start=1):
        entry = AuditEntry(
            id=f"aud_{sequence}", tenant_id=tenant_id, sequence=sequence, previous_mac=mac, mac="", **content
        )
        mac = entry_mac(key, entry)
        entries.append(msgspec.structs.replace(entry, mac=mac))
    return entries, make_head(key, tenant_id, len(entries), mac)


def first_fault(entries: Sequence[AuditEntry], head: Head | None) -> str | None:
    """What ``verify`` would say: rows come back in the order of their numbers."""
    walk = ChainWalk(TENANT, KEYS.__getitem__)
    for entry in sorted(entries, key=lambda entry: entry.sequence):
        if fault := walk.fault(entry):
            return fault
    return walk.end_fault(head)


@given(contents=contents)
def test_an_untouched_chain_holds(contents: list[dict[str, Any]]) -> None:
    assert first_fault(*chain_of(contents)) is None


@given(contents=contents, data=st.data())
def test_a_changed_field_of_any_entry_is_found(contents: list[dict[str, Any]], data: st.DataObject) -> None:
    entries, head = chain_of(contents)
    place = data.draw(st.integers(0, len(entries) - 1))
    field = data.draw(st.sampled_from(AuditEntry.__struct_fields__))
    value = getattr(entries[place], field)
    changed: Any
    if isinstance(value, int):
        changed = value + data.draw(st.integers(1, 5))
    elif isinstance(value, dict):
        changed = value | {"added": 1}
    else:
        changed = (value or "") + "x" if field not in {"before", "after"} else {"added": 1}
    entries[place] = msgspec.structs.replace(entries[place], **{field: changed})
    assert first_fault(entries, head) is not None


@given(contents=contents, data=st.data())
def test_a_removed_entry_is_found_also_the_last(contents: list[dict[str, Any]], data: st.DataObject) -> None:
    entries, head = chain_of(contents)
    del entries[data.draw(st.integers(0, len(entries) - 1))]
    assert first_fault(entries, head) is not None


@given(contents=contents, data=st.data())
def test_entries_that_change_places_are_found(contents: list[dict[str, Any]], data: st.DataObject) -> None:
    entries, head = chain_of(contents)
    places = st.integers(0, len(entries) - 1)
    one, other = data.draw(places), data.draw(places)
    assume(one != other)
    first, second = entries[one], entries[other]
    entries[one] = msgspec.structs.replace(first, sequence=second.sequence)
    entries[other] = msgspec.structs.replace(second, sequence=first.sequence)
    assert first_fault(entries, head) is not None


@given(contents=contents)
def test_an_entry_forged_without_the_key_is_found(contents: list[dict[str, Any]]) -> None:
    """The forger knows everything in the database, and makes MACs and head with a key of their own."""
    entries, _ = chain_of(contents)
    forged = ChainKey(1, b"guess" * 7)
    entry = AuditEntry(
        id="aud_x", tenant_id=TENANT, sequence=len(entries) + 1, previous_mac=entries[-1].mac, mac="", **contents[0]
    )
    entry = msgspec.structs.replace(entry, mac=entry_mac(forged, entry))
    head = make_head(forged, TENANT, entry.sequence, entry.mac)
    assert first_fault([*entries, entry], head) is not None


@given(contents=contents, data=st.data())
def test_a_chain_cut_at_any_place_with_its_head_set_back_is_found(
    contents: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Numbers and MACs of earlier entries are in the database; the seal over them as a head is not."""
    entries, head = chain_of(contents)
    left = data.draw(st.integers(0, len(entries) - 1))
    mac = entries[left - 1].mac if left else GENESIS
    assert first_fault(entries[:left], msgspec.structs.replace(head, sequence=left, mac=mac)) is not None


@given(contents=contents)
def test_another_tenants_chain_does_not_pass_for_this_ones(contents: list[dict[str, Any]]) -> None:
    entries, head = chain_of(contents, tenant_id="ten_2")
    assert first_fault(entries, head) is not None
    moved = [msgspec.structs.replace(entry, tenant_id=TENANT) for entry in entries]
    assert first_fault(moved, msgspec.structs.replace(head, tenant_id=TENANT)) is not None


def test_a_chain_goes_on_under_a_new_version_of_the_secret() -> None:
    content: dict[str, Any] = {
        "at_us": 1, "actor": "tok_1", "action": "key.created", "target": "key_1", "before": None, "after": {"name": "a"},
        "address": None, "request_id": None,
    }  # fmt: skip
    entries, _ = chain_of([content])
    new_key = ChainKey(2, KEYS[2])
    second = AuditEntry(id="aud_2", tenant_id=TENANT, sequence=2, previous_mac=entries[0].mac, mac="", **content)
    second = msgspec.structs.replace(second, mac=entry_mac(new_key, second))
    assert first_fault([*entries, second], make_head(new_key, TENANT, 2, second.mac)) is None


def test_a_missing_head_and_an_unknown_version_are_named() -> None:
    assert first_fault([], None) == "the head of the chain is missing"
    head = msgspec.structs.replace(make_head(ChainKey(1, KEYS[1]), TENANT, 0, GENESIS), seal="7:00")
    assert first_fault([], head) == "signed with version '7' of the master secret, which is not given"
