"""The master secret: read strictly, never shown, rotated without losing what older versions wrote."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.errors import ConfigurationError
from apishield.services.secrets import CannotDecrypt, Secrets

FIRST = b64encode(b"1" * 32).decode()
SECOND = b64encode(b"2" * 32).decode()


def test_the_first_version_writes_and_all_of_them_read() -> None:
    old, both = Secrets.parse(f"1:{FIRST}"), Secrets.parse(f"2:{SECOND},1:{FIRST}")
    assert both.current_version == 2
    assert both.versions == (2, 1)
    assert both.pepper(1) == old.pepper()
    assert both.decrypt("webhook", old.encrypt("webhook", b"text")) == b"text"
    assert both.encrypt("webhook", b"text")[:2] == b"\x00\x02"


def test_each_purpose_has_its_own_key() -> None:
    secrets = Secrets.parse(f"1:{FIRST}")
    derived = [
        secrets.pepper(),
        secrets.derive("audit"),
        secrets.derive("webhook"),
        bytes.fromhex(secrets.check_value()),
    ]
    assert len(set(derived)) == len(derived)
    assert all(len(key) == 32 for key in derived)


def test_a_generated_secret_can_be_read_and_is_never_the_same() -> None:
    assert Secrets.parse(Secrets.generate()).versions == (1,)
    assert Secrets.generate() != Secrets.generate()


@pytest.mark.parametrize(
    "text",
    [
        "", FIRST, f":{FIRST}", f"0:{FIRST}", f"x:{FIRST}", f"65536:{FIRST}", "1:not base64", "1:c2hvcnQ=",
        f"1:{FIRST},1:{SECOND}", f"1:{FIRST},",
    ],
)  # fmt: skip
def test_what_can_not_be_used_names_the_variable_and_repeats_nothing(text: str) -> None:
    with pytest.raises(ConfigurationError, match="APISHIELD_SECRET") as caught:
        Secrets.parse(text)
    assert FIRST not in str(caught.value)
    assert "not base64," not in str(caught.value)


def test_nothing_of_the_secret_is_shown_when_printed() -> None:
    secrets = Secrets.parse(f"1:{FIRST}")
    assert repr(secrets) == "Secrets(versions=(1,))"
    assert "1111" not in repr(secrets.audit_key())


@given(data=st.data())
def test_a_sealed_value_opens_only_unchanged_for_its_purpose_and_place(data: st.DataObject) -> None:
    secrets = Secrets.parse(f"1:{FIRST}")
    sealed = secrets.encrypt("webhook", b"whsec_text", b"ten_1")
    place = data.draw(st.integers(min_value=0, max_value=len(sealed) - 1))
    bit = data.draw(st.integers(min_value=0, max_value=7))
    changed = bytearray(sealed)
    changed[place] ^= 1 << bit
    for label, value, owner in (
        ("webhook", bytes(changed), b"ten_1"),
        ("webhook", sealed[:place], b"ten_1"),
        ("webhook", sealed, b"ten_2"),
        ("stripe", sealed, b"ten_1"),
    ):
        with pytest.raises(CannotDecrypt):
            secrets.decrypt(label, value, owner)
    assert secrets.decrypt("webhook", sealed, b"ten_1") == b"whsec_text"
