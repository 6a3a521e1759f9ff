"""Who is asking: one spelling per address, and only trusted proxies may say so."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.abuse_detector.addresses import (
    Address,
    client_address,
    counted_address,
    parse_address,
    parse_network,
    within,
)
from apishield.core.abuse_detector.blocklist import Blocklist
from apishield.core.records import Block

PROXIES = [network for network in map(parse_network, ["10.0.0.0/8", "2001:db8:ffff::/48"]) if network is not None]


@pytest.mark.parametrize(
    ("spelling", "text", "counted"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:0201", "192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0:1::1", "2001:db8::1:0:0:1", "2001:db8::/64"),
        ("2001:db8::1%eth0", "2001:db8::1", "2001:db8::/64"),
    ],
)
def test_spellings_of_one_address_come_out_the_same(spelling: str, text: str, counted: str) -> None:
    address = parse_address(spelling)
    assert address is not None
    assert (address.text, address.counted) == (text, counted)
    assert counted_address(spelling) == counted


@pytest.mark.parametrize(
    "garbage", ["", "localhost", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4/8", "::g", "1" * 100, "\x00"]
)
def test_garbage_is_no_address(garbage: str) -> None:
    assert parse_address(garbage) is None
    assert counted_address(garbage) is None


_bytes = st.one_of(st.integers(0, 300).map(str), st.sampled_from(["", "00", "01", "+1", " 1", "1 ", "1_0", "٣", "²"]))


@given(st.one_of(st.lists(_bytes, min_size=3, max_size=5).map(".".join), st.ip_addresses(v=4).map(str)))
def test_an_ipv4_address_is_what_the_standard_library_takes_for_one(text: str) -> None:
    try:
        expected: int | None = int(IPv4Address(text))
    except ValueError:
        expected = None
    address = parse_address(text)
    assert (None if address is None else address.number) == expected
    if address is not None:
        assert address == Address(str(IPv4Address(text)), str(IPv4Address(text)), 4, expected or 0)


_groups = st.one_of(
    st.integers(0, 0x1FFFF).map("{:x}".format), st.sampled_from(["", "0", "0000", "00000", "FFFF", "g", "٣", "1.2.3.4"])
)


@given(
    st.one_of(
        st.lists(_groups, min_size=2, max_size=9).map(":".join),
        st.lists(st.sampled_from(["0", "1"]), min_size=8, max_size=8).map(":".join),
        st.ip_addresses(v=6).map(str),
        st.ip_addresses(v=6).map(lambda address: address.exploded.upper()),
        st.integers(0, (1 << 50) - 1).map(lambda number: str(IPv6Address(number))),
    )
)
def test_an_ipv6_address_is_what_the_standard_library_takes_for_one_and_is_spelt_as_it_does(text: str) -> None:
    try:
        expected: IPv6Address | None = IPv6Address(text)
    except ValueError:
        expected = None
    address = parse_address(text)
    if expected is None:
        assert address is None
        return
    assert address is not None
    if expected.ipv4_mapped is not None:
        assert address.number == int(expected.ipv4_mapped)
        return
    prefix = IPv6Address(int(expected) >> 64 << 64)
    assert address == Address(str(expected), f"{prefix}/64", 6, int(expected))


def test_nobody_is_believed_about_the_client_unless_trusted() -> None:
    address = client_address("203.0.113.9", ["198.51.100.7"], PROXIES)
    assert address is not None
    assert address.text == "203.0.113.9"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["1.1.1.1", "198.51.100.7"], "198.51.100.7"),  # the left one was said by the client itself
        (["1.1.1.1", "198.51.100.7", "10.9.9.9"], "198.51.100.7"),
        (["198.51.100.7:4711"], "198.51.100.7"),
        (['"[2001:db8::7]:4711"'], "2001:db8::7"),
        (["198.51.100.7", "unknown", "10.9.9.9"], "10.9.9.9"),  # what can't be read ends the walk
        (["10.1.1.1"], "10.1.1.1"),
        ([], "10.0.0.1"),
    ],
)
def test_the_rightmost_hop_that_is_no_trusted_proxy_is_the_client(forwarded: list[str], client: str) -> None:
    address = client_address("10.0.0.1", forwarded, PROXIES)
    assert address is not None
    assert address.text == client


def _block(block_id: str, value: str, expires_at_us: int | None = None) -> Block:
    kind: Literal["ip", "cidr"] = "cidr" if "/" in value else "ip"
    return Block(
        id=block_id,
        tenant_id=None,
        action="block",
        kind=kind,
        value=value,
        created_at_us=0,
        expires_at_us=expires_at_us,
    )


def test_the_longest_prefix_that_holds_answers() -> None:
    blocks = Blocklist([_block("wide", "10.0.0.0/8"), _block("narrow", "10.1.0.0/16", expires_at_us=100)])
    inside = parse_address("10.1.2.3")
    outside = parse_address("11.1.2.3")
    assert inside is not None
    assert outside is not None
    at_99, at_100 = blocks.of_address(inside, 99), blocks.of_address(inside, 100)
    assert at_99 is not None
    assert at_99.id == "narrow"
    assert at_100 is not None
    assert at_100.id == "wide"
    assert blocks.of_address(outside, 0) is None


def test_a_block_that_is_taken_away_uncovers_another_of_the_same_prefix() -> None:
    blocks = Blocklist([_block("one", "192.0.2.1/32"), _block("two", "192.0.2.1")])
    address = parse_address("::ffff:192.0.2.1")
    assert address is not None
    blocks.discard("two")
    left = blocks.of_address(address, 0)
    assert left is not None
    assert left.id == "one"
    blocks.discard("one")
    assert blocks.of_address(address, 0) is None
    assert not blocks


def test_ipv6_networks_hold_their_addresses_and_no_others() -> None:
    network = parse_network("2001:db8::/32")
    mapped = parse_network("::ffff:10.0.0.0/104")
    assert network is not None
    assert mapped is not None
    address, foreign, ipv4 = (parse_address(text) for text in ("2001:db8::5", "2001:db9::5", "10.3.0.1"))
    assert address is not None
    assert foreign is not None
    assert ipv4 is not None
    assert within(address, [network])
    assert not within(foreign, [network])
    assert within(ipv4, [mapped])
