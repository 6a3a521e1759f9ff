"""The states of a key, at the very instants where they change."""

from __future__ import annotations

import pytest

from apishield.core.key_manager.lifecycle import grace_end_us, refusal, status
from apishield.core.model import SECOND_US
from apishield.core.records import Key

NOW_US = 1_000 * SECOND_US


def key(*, enabled: bool = True, expires_at_us: int | None = None, revoked_at_us: int | None = None) -> Key:
    return Key(
        id="key_1", tenant_id="ten_1", name="", hint="", created_at_us=0, updated_at_us=0,
        enabled=enabled, expires_at_us=expires_at_us, revoked_at_us=revoked_at_us,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key_", "state", "code"),
    [
        (key(), "active", None),
        (key(enabled=False), "disabled", "key_disabled"),
        (key(expires_at_us=NOW_US + 1), "active", None),
        (key(expires_at_us=NOW_US), "expired", "key_expired"),
        (key(expires_at_us=NOW_US, enabled=False), "expired", "key_expired"),
        (key(revoked_at_us=NOW_US - 1, expires_at_us=NOW_US, enabled=False), "revoked", "key_revoked"),
    ],
)
def test_the_state_that_can_least_be_undone_is_the_one_that_is_said(key_: Key, state: str, code: str | None) -> None:
    assert status(key_, NOW_US) == state
    assert refusal(key_, NOW_US) == code


@pytest.mark.parametrize(
    ("grace_seconds", "key_expires_at_us", "end_us"),
    [
        (0, None, NOW_US),
        (60, None, NOW_US + 60 * SECOND_US),
        (60, NOW_US + 30 * SECOND_US, NOW_US + 30 * SECOND_US),
        (60, NOW_US + 90 * SECOND_US, NOW_US + 60 * SECOND_US),
    ],
)
def test_the_grace_never_ends_past_the_expiry(grace_seconds: int, key_expires_at_us: int | None, end_us: int) -> None:
    assert grace_end_us(NOW_US, grace_seconds, key_expires_at_us) == end_us
