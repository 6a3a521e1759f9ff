"""The index of path patterns says what the patterns say one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core import path_index
from apishield.core.path_index import Glob, PathIndex, expression, fault, rank, shape

segments = st.sampled_from(
    ["a", "b", "ab", "v1", "{id}", "{x}", "a*", "*b", "*", "a*b", "a{x}", "{x}b", "*{x}a", "{x}{y}"]
)
patterns = st.builds(
    lambda parts, end: "/" + "/".join(parts) + end,
    st.lists(segments, min_size=1, max_size=4),
    st.sampled_from(["", "", "*", "/*", "/"]),
)
paths = st.builds(
    lambda parts: "/" + "/".join(parts),
    st.lists(st.sampled_from(["a", "b", "ab", "aab", "v1", "7", "axb"]), max_size=5),
)


@given(st.lists(patterns, max_size=12), paths)
def test_the_index_finds_exactly_the_patterns_that_match(drawn: list[str], path: str) -> None:
    index: PathIndex[int] = PathIndex()
    for number, pattern in enumerate(drawn):
        index.add(pattern, number)
    one_by_one = [number for number, pattern in enumerate(drawn) if expression(pattern).fullmatch(path) is not None]
    assert sorted(index.find(path)) == one_by_one


@given(st.lists(patterns, max_size=24), st.sets(st.integers(0, 23)), paths)
def test_what_is_taken_out_is_as_if_it_had_never_been_there(drawn: list[str], gone: set[int], path: str) -> None:
    index: PathIndex[int] = PathIndex()
    for number, pattern in enumerate(drawn):
        index.add(pattern, number)
    for number in gone & set(range(len(drawn))):
        index.remove(drawn[number], number)
    kept = [number for number in range(len(drawn)) if number not in gone]
    assert sorted(index.find(path)) == [n for n in kept if expression(drawn[n]).fullmatch(path) is not None]


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/orders/{id}", ["/orders/7"], ["/orders", "/orders/7/items", "/Orders/7"]),
        ("/orders/{id}/items", ["/orders/7/items"], ["/orders/items"]),
        ("/v1/search*", ["/v1/search", "/v1/searches", "/v1/search/deep/er"], ["/v1/sea"]),
        ("/v1/*", ["/v1/a", "/v1/a/b", "/v1"], ["/v2/a", "/v10"]),
        ("/files/*.png", ["/files/a.png"], ["/files/a/b.png", "/files/a.jpg"]),
        ("/users/{id}/*", ["/users/7/a/b", "/users/7"], ["/users"]),
        ("/*", ["/", "/a", "/a/b"], []),
        ("/", ["/"], ["/a"]),
        ("/a/", ["/a"], ["/a/b"]),
        ("/a.b", ["/a.b"], ["/axb"]),
        ("/calls/{id}.json", ["/calls/7.json"], ["/calls/.json", "/calls/7.xml", "/calls/7/8.json"]),
        ("/{from}..{to}", ["/1..2", "/a...b"], ["/..2", "/1.2"]),
        ("/{id}*", ["/a", "/a/b"], ["/"]),
    ],
)
def test_patterns_match_as_documented(pattern: str, matching: list[str], other: list[str]) -> None:
    index: PathIndex[str] = PathIndex()
    index.add(pattern, pattern)
    assert [path for path in [*matching, *other] if index.find(path)] == matching


@pytest.mark.parametrize(
    "pattern",
    [
        *("orders", "", "/a//b", "/a/../b", "/{", "/{}", "/a{id", "/id}x", "/a?b", "/a\\b", "/a\x00"),
        *("/" + "a" * 2000, "/a" * 33, "/{x}" * 9, "/" + "*a" * 9),
    ],
)
def test_a_pattern_that_could_never_match_or_mislead_is_refused_in_words(pattern: str) -> None:
    assert fault(pattern)


@given(patterns)
def test_patterns_of_the_documented_form_are_accepted(pattern: str) -> None:
    if "//" not in pattern and "}*" not in pattern and pattern.count("*") + pattern.count("{") <= 8:
        assert fault(pattern) is None


@given(patterns, paths)
def test_patterns_of_one_shape_match_the_same_paths(pattern: str, path: str) -> None:
    same = shape(pattern).replace("{}", "{renamed}")
    assert bool(expression(pattern).fullmatch(path)) == bool(expression(same).fullmatch(path))
    assert rank(pattern) == rank(same)


@pytest.mark.parametrize(
    "ordered",
    [
        ["/orders/export", "/orders/{id}", "/orders/*", "/*"],
        ["/a/b", "/a/b{x}", "/a/{x}", "/{x}/b", "/{x}/{y}"],
        ["/v1/search*", "/v1/s*", "/v1/*", "/v1*", "/*"],
    ],
)
def test_the_most_particular_pattern_comes_first(ordered: list[str]) -> None:
    assert sorted(sorted(ordered), key=rank) == ordered


def test_no_pattern_makes_a_path_slow_to_match() -> None:
    index: PathIndex[int] = PathIndex()
    index.add("/" + "*a" * 400 + "*b", 1)
    index.add("/" + "{x}a" * 200 + "c", 2)
    assert index.find("/" + "a" * 4000) == []  # a matcher that backtracks would be at it for the age of the universe


def test_as_many_patterns_as_a_tenant_may_have_are_each_compared_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    match_glob, match_route = Glob.matches, path_index._Route.matches

    def counted(self: Glob, text: str, *, is_open: bool = False) -> bool:
        nonlocal compared
        compared += 1
        return match_glob(self, text, is_open=is_open)

    def counted_route(self: path_index._Route[int], segments: list[str], place: int) -> bool:
        nonlocal compared
        compared += 1
        return match_route(self, segments, place)

    index: PathIndex[int] = PathIndex()
    for number, places in enumerate(itertools.islice(itertools.combinations(range(20), 8), 2000)):
        index.add("".join("/*a" if place in places else "/a" for place in range(32)), number)
    monkeypatch.setattr(Glob, "matches", counted)
    monkeypatch.setattr(path_index._Route, "matches", counted_route)
    assert len(index.find("/a" * 32)) == 2000
    assert compared < 2000 * (1 + path_index.MAX_WILDCARDS) * 1.1
