"""The catalogue finds the endpoint that comparing all of them one by one would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apishield.core.endpoints import ANY_METHOD, METHODS, Catalogue, CatalogueEntry, pattern_subject
from apishield.core.path_index import expression, rank, shape
from apishield.core.records import Endpoint
from tests.properties.test_path_index import paths, patterns

methods = st.sampled_from(["GET", "HEAD", "POST", ANY_METHOD])
asked = st.sampled_from(["GET", "HEAD", "POST", "DELETE"])


def _endpoint(number: int, method: str, path: str) -> Endpoint:
    return Endpoint(
        id=f"end_{number}",
        tenant_id="ten",
        method=method,
        path=path,
        shape=shape(path),
        created_at_us=0,
        updated_at_us=0,
    )


def _one_by_one(catalogue: dict[tuple[str, str], Endpoint], method: str, path: str) -> Endpoint | None:
    """The most particular path that matches; of two endpoints of one path, the method's own."""
    preferred = [method, "GET", ANY_METHOD] if method == "HEAD" else [method, ANY_METHOD]
    matching = [
        (rank(endpoint.path), preferred.index(endpoint.method), endpoint.id)
        for endpoint in catalogue.values()
        if endpoint.method in preferred and expression(endpoint.path).fullmatch(path)
    ]
    return next((each for each in catalogue.values() if each.id == min(matching)[2]), None) if matching else None


@given(st.lists(st.tuples(methods, patterns), max_size=12), asked, paths)
def test_the_catalogue_finds_the_best_endpoint_whatever_the_order_in_which_it_was_made(
    drawn: list[tuple[str, str]], method: str, path: str
) -> None:
    catalogue = {(method, shape(path)): _endpoint(number, method, path) for number, (method, path) in enumerate(drawn)}
    expected = _one_by_one(catalogue, method, path)
    for ordered in (catalogue.values(), reversed(catalogue.values())):
        found = Catalogue(map(CatalogueEntry, ordered)).find(method, path)
        assert (None if found is None else found.endpoint) == expected


@given(st.lists(st.tuples(methods, patterns), max_size=16), st.sets(st.integers(0, 15)), asked, paths)
def test_a_catalogue_that_was_changed_is_as_one_that_was_made_anew(
    drawn: list[tuple[str, str]], gone: set[int], method: str, path: str
) -> None:
    known = {(method, shape(path)): _endpoint(number, method, path) for number, (method, path) in enumerate(drawn)}
    entries = [CatalogueEntry(endpoint) for endpoint in known.values()]
    changed = Catalogue(entries)
    for number in gone & set(range(len(entries))):
        changed.remove(entries[number])
    anew = Catalogue(entry for number, entry in enumerate(entries) if number not in gone)
    assert changed.find(method, path) is anew.find(method, path)


@given(st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=16), patterns)
def test_methods_that_somebody_invents_make_no_counters_of_their_own(method: str, pattern: str) -> None:
    known = {pattern_subject(each, pattern) for each in (*METHODS, None)}
    assert pattern_subject(method, pattern) in known
    assert pattern_subject("HEAD", pattern) == pattern_subject("GET", pattern)
