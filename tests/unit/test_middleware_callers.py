"""Who is calling: which key and which address a request is taken for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.paths import BadPathError, normalise
from apishield.errors import ConfigurationError
from apishield.integrations.callers import LONGEST_KEY, CallerRules, Incoming

PROXY, OTHER_PROXY, CLIENT = "10.0.0.1", "10.0.0.2", "198.51.100.7"


def read(headers: dict[str, str], peer: str | None = CLIENT, path: str = "/", **options: Any) -> Incoming:
    return CallerRules.of(**options).read("GET", path, headers.get, peer)


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"x-api-key": "sk_live_a"}, "sk_live_a"),
        ({"x-api-key": " sk_live_a "}, "sk_live_a"),
        ({"x-api-key": "an-imported-key"}, "an-imported-key"),
        ({"x-api-key": ""}, None),
        ({"authorization": "Bearer sk_live_a"}, "sk_live_a"),
        ({"authorization": "bearer  sk_test_a"}, "sk_test_a"),
        ({"authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln"}, None),
        ({"authorization": "Basic sk_live_a"}, None),
        ({"authorization": "Bearer"}, None),
        ({"x-api-key": "sk_live_a", "authorization": "Bearer sk_live_b"}, "sk_live_a"),
    ],
)
def test_a_key_is_what_stands_in_its_header_or_a_bearer_token_that_looks_like_one(
    headers: dict[str, str], key: str | None
) -> None:
    assert read(headers).api_key == key


def test_other_headers_and_other_bearer_tokens_can_be_named() -> None:
    headers = {"x-key": "abc", "authorization": "Bearer anything"}
    assert read(headers, key_header="X-Key").api_key == "abc"
    assert read(headers, bearer_prefixes=("",)).api_key == "anything"
    assert read({"authorization": "Bearer sk_live_a"}, bearer_prefixes=()).api_key is None


def test_two_keys_in_one_request_are_no_key_of_either() -> None:
    assert read({"x-api-key": "sk_live_a,sk_live_b"}).api_key == "sk_live_a,sk_live_b"


def test_a_huge_header_stays_a_small_check() -> None:
    assert len(read({"x-api-key": "k" * 65_536}).api_key or "") == LONGEST_KEY


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (CLIENT, CLIENT),
        ("::ffff:198.51.100.7", CLIENT),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("testclient", None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_is_the_peers_in_one_spelling(peer: str | None, address: str | None) -> None:
    assert read({}, peer).ip == address


def test_nobody_is_believed_by_default() -> None:
    assert read({"x-forwarded-for": "192.0.2.1", "forwarded": "for=192.0.2.1"}).ip == CLIENT


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("", PROXY),
        ("192.0.2.1", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, 10.0.0.2", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, unknown", PROXY),
        ("192.0.2.1, , 10.0.0.2", "10.0.0.2"),
        ("10.0.0.2", "10.0.0.2"),
        ("192.0.2.1, 999.1.1.1", PROXY),
    ],
)
def test_behind_a_trusted_proxy_it_is_the_rightmost_hop_that_is_not_one(forwarded: str, address: str) -> None:
    assert read({"x-forwarded-for": forwarded}, PROXY, trusted_proxies=["10.0.0.0/8"]).ip == address


def test_a_peer_that_is_no_trusted_proxy_is_not_believed() -> None:
    assert read({"x-forwarded-for": "192.0.2.1"}, CLIENT, trusted_proxies=["10.0.0.0/8"]).ip == CLIENT


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("for=192.0.2.1;proto=https;by=10.0.0.1", "192.0.2.1"),
        ('proto=https; For="192.0.2.1:80"', "192.0.2.1"),
        ('for="[2001:db8::1]:80"', "2001:db8::1"),
        ("for=203.0.113.9, for=192.0.2.1", "192.0.2.1"),
        ("for=192.0.2.1, for=_hidden", PROXY),
        ("for=192.0.2.1, for=unknown", PROXY),
        ("for=192.0.2.1, proto=https", PROXY),
        ("for=", PROXY),
    ],
)
def test_forwarded_of_rfc_7239_is_read_where_it_is_named(forwarded: str, address: str) -> None:
    headers = {"forwarded": forwarded, "x-forwarded-for": "203.0.113.200"}
    assert read(headers, PROXY, trusted_proxies=["10.0.0.1"], forwarded_header="Forwarded").ip == address


def test_a_forwarding_header_that_is_not_named_is_never_read() -> None:
    assert read({"forwarded": "for=192.0.2.1"}, PROXY, trusted_proxies=[PROXY]).ip == PROXY


def test_the_peer_of_a_unix_socket_is_believed_only_where_unix_is_trusted() -> None:
    headers = {"x-forwarded-for": "192.0.2.1"}
    assert read(headers, None, trusted_proxies=["10.0.0.1"]).ip is None
    assert read(headers, None, trusted_proxies=["unix"]).ip == "192.0.2.1"
    assert read({}, None, trusted_proxies=["unix"]).ip is None


@given(
    client_wrote=st.text(st.characters(codec="latin-1"), max_size=60),
    real=st.ip_addresses(v=4, network="198.51.100.0/24"),
)
def test_nothing_that_a_client_writes_changes_its_address(client_wrote: str, real: object) -> None:
    headers = {"x-forwarded-for": f"{client_wrote}, {real}", "forwarded": client_wrote, "x-real-ip": client_wrote}
    assert read(headers, PROXY, trusted_proxies=["10.0.0.0/8"]).ip == str(real)


@pytest.mark.parametrize("proxies", ["10.0.0.1", ["10.0.0.0/33"], ["nginx"], ["10.0.0.1/8"]])
def test_trusted_proxies_that_can_not_be_read_are_refused_at_the_start(proxies: Any) -> None:
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        CallerRules.of(trusted_proxies=proxies)


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/orders/1", "/orders/1"),
        ("/a b/ä", "/a%20b/%C3%A4"),
        ("/what?", "/what%3F"),
        ("/a%2Fb", "/a%252Fb"),
        ("*", None),
        ("", None),
    ],
)
def test_a_path_is_sent_as_the_app_sees_it_and_never_with_a_query(path: str, sent: str | None) -> None:
    assert read({}, path=path).path == sent


@given(path=st.text(max_size=40).map(lambda text: "/" + text))
def test_any_path_that_the_service_takes_is_the_one_that_the_app_routes(path: str) -> None:
    sent = read({}, path=path).path
    assert sent is not None
    assert sent.isascii()
    try:
        taken = normalise(sent)
    except BadPathError:
        return
    routed = re.sub(r";[^/]*", "", path)  # what stands behind a semicolon is no part of the resource's name
    assert [part for part in taken.split("/") if part] == [part for part in routed.split("/") if part]


def test_lone_surrogates_and_endless_paths_are_sent_as_something_that_json_holds() -> None:
    assert read({}, path="/\udcff").path == "/%3F"
    with pytest.raises(BadPathError, match="longer"):
        normalise(read({}, path="/" + "a" * 100_000).path or "")


@pytest.mark.parametrize("given", ["short", "x" * 129, "a b c d e f", "line\nbreak12"])
def test_a_request_id_is_taken_over_only_where_it_is_sane(given: str) -> None:
    assert read({"x-request-id": given}).request_id is None
    assert read({"x-request-id": "trace-12345678"}).request_id == "trace-12345678"
