"""What a scope covers, and what it does not."""

from __future__ import annotations

import pytest

from apishield.core.key_manager.scopes import default_scope, fault, satisfies


@pytest.mark.parametrize(
    ("held", "needed", "covered"),
    [
        ((), "read", False),
        (("read",), "read", True),
        (("read",), "write", False),
        (("write",), "read", False),
        (("admin",), "read", True),
        (("admin",), "write", True),
        (("admin",), "orders:read", False),
        (("orders:*",), "orders:read", True),
        (("orders:*",), "orders:items:read", True),
        (("orders:*",), "orders", False),
        (("orders:*",), "orders:", False),
        (("orders:*",), "orders2:read", False),
        (("orders:read",), "orders:*", False),
        (("*",), "anything:at:all", True),
        (("read", "orders:write"), "orders:write", True),
    ],
)
def test_scopes_cover_what_they_say_and_no_more(held: tuple[str, ...], needed: str, covered: bool) -> None:
    assert satisfies(held, needed) is covered


@pytest.mark.parametrize(
    ("method", "scope"), [("GET", "read"), ("head", "read"), ("OPTIONS", "read"), ("POST", "write"), ("BREW", "write")]
)
def test_methods_that_only_read_need_read_and_all_others_write(method: str, scope: str) -> None:
    assert default_scope(method) == scope


@pytest.mark.parametrize("scope", ["read", "orders:*", "*", "https://www.example.com/auth/drive.readonly", "a" * 100])
def test_sound_scopes_have_no_fault(scope: str) -> None:
    assert fault(scope) is None


@pytest.mark.parametrize(
    "scope", ["", "a b", "a\0b", 'a"b', "a\\b", "é", "or*ders", "orders*", "a:*:b", ":*", "**", "a" * 101]
)
def test_scopes_that_could_not_be_written_in_a_header_or_mean_two_things_are_refused(scope: str) -> None:
    assert fault(scope)
