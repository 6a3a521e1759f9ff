"""One path, one spelling: what two servers could read in two ways is refused or comes out the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.paths import BadPathError, normalise


@pytest.mark.parametrize(
    "spelling",
    [
        "/admin/users",
        "/admin/users/",
        "//admin/users",
        "/admin//users",
        "///admin///users///",
        "/%61dmin/users",
        "/admin/%75sers",
        "/admin/user%73?x=1",
        "/admin/users?x=1",
        "/admin/users#top",
        "/admin/users/?x=/../y",
        "/%61%64%6D%69%6E/users",
        "/%61%64%6d%69%6e/users",
    ],
)
def test_spellings_of_one_path_come_out_the_same(spelling: str) -> None:
    assert normalise(spelling) == "/admin/users"


@pytest.mark.parametrize(
    "spelling",
    [
        "/public/../admin/users",
        "/./admin/users",
        "/admin/users/.",
        "/public/%2e%2e/admin/users",
        "/public/.%2E/admin/users",
        "/admin%2fusers",
        "/admin%2Fusers",
        "/admin\\users",
        "/admin%5cusers",
        "/admin/users%00",
        "/admin/users\x00.png",
        "/admin/users%0d%0aX: y",
        "/admin;x=1/users",
        "/admin/users%3bx",
        "/admin/%ff",
        "/admin/%c0%ae%c0%ae/users",
        "admin/users",
        "",
        "https://example.com/admin/users",
        "/" + "a" * 5000,
        "/\ud800",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(spelling: str) -> None:
    with pytest.raises(BadPathError):
        normalise(spelling)


def test_a_double_encoding_is_decoded_once_only() -> None:
    assert normalise("/a/%2561") == "/a/%61"


def test_dots_inside_names_are_names() -> None:
    assert normalise("/.well-known/jwks.json") == "/.well-known/jwks.json"
    assert normalise("/a..b/...") == "/a..b/..."


@given(st.text(max_size=60))
def test_a_normal_path_has_nothing_left_to_normalise(text: str) -> None:
    try:
        once = normalise("/" + text)
    except BadPathError:
        return
    assert once.startswith("/")
    assert "//" not in once
    assert once == "/" or not once.endswith("/")
    assert not {".", ".."} & set(once.split("/"))
