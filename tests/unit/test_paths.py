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
        "/admin;x=1/users",
        "/admin/users;jsessionid=1",
        "/admin/users%3bx",
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
        "/public/..;/admin/users",
        "/public/%2e%2e;x=1/admin/users",
        "/admin/%ff",
        "/admin/%c0%ae%c0%ae/users",
        "admin/users",
        "",
        "https://example.com/admin/users",
        "/" + "a" * 5000,
        "/\ud800",
        "/%252e%252e/admin",
        "/public/%252e%252E",
        "/public/.%252e/admin",
        "/%2525252e/admin",
        "/admin%252fusers",
        "/admin%25252Fusers",
        "/admin%%32fusers",
        "/admin%255cusers",
        "/admin%253bx",
        "/admin%2500.png",
        "/admin%250d%250aX: y",
        "/admin%257f",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(spelling: str) -> None:
    with pytest.raises(BadPathError):
        normalise(spelling)


def test_an_innocent_double_encoding_is_decoded_once_only() -> None:
    assert normalise("/a/%2561") == "/a/%61"
    assert normalise("/a/100%25") == "/a/100%"
    assert normalise("/a/b%252ejpg") == "/a/b%2ejpg"
    assert normalise("/a/%252e%252e%252e") == "/a/%2e%2e%2e"
    assert normalise("/a/%2520%25c3%25a9") == "/a/%20%c3%a9"


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
