"""Client addresses: one spelling each, the prefix they are counted by, and who said so.

IPv4-mapped IPv6 is unwrapped (RFC 4291, section 2.5.5.2); IPv6 is counted by /64, since one subscriber usually holds that
much (RFC 6177); a zone index (RFC 4007) is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

Network = IPv4Network | IPv6Network
COUNTED_IPV6_PREFIX = 64
LONGEST_ADDRESS = 64


class Address(NamedTuple):
    """``text`` is the one spelling; ``counted`` is what limits count by (the address, or its /64); ``number`` its integer."""

    text: str
    counted: str
    version: int
    number: int


def parse_address(text: str) -> Address | None:
    """The address that ``text`` spells, or ``None`` where it spells none."""
    return _remembered(text) if len(text) <= LONGEST_ADDRESS else None  # nothing long is kept


def counted_address(text: str) -> str | None:
    """What limits count the address by that ``text`` spells. Remembers nothing: it is for those who look at many, once each."""
    address = _parse(text) if len(text) <= LONGEST_ADDRESS else None
    return None if address is None else address.counted


def _parse(text: str) -> Address | None:
    number = _ipv4(text)
    if number is not None:
        return Address(text, text, 4, number)
    text = text.partition("%")[0]
    return _ipv6(text) or _by_the_library(text)


_remembered = lru_cache(maxsize=65_536)(_parse)


def _ipv6(text: str) -> Address | None:
    """An IPv6 address as the system reads and spells it; ``None`` of anything else, and of those with IPv4 in them.

    By the system, because ``ipaddress`` takes six times as long, and a flood from many addresses is parsed one by one.
    """
    try:
        packed = inet_pton(AF_INET6, text)
    except (OSError, ValueError):
        return None
    number = int.from_bytes(packed)
    if number >> 48 == 0:  # IPv4, mapped or compatible, which systems spell as they like
        return None
    prefix = inet_ntop(AF_INET6, packed[: COUNTED_IPV6_PREFIX // 8] + bytes(8))
    return Address(inet_ntop(AF_INET6, packed), f"{prefix}/{COUNTED_IPV6_PREFIX}", 6, number)


def _by_the_library(text: str) -> Address | None:
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.version == 4:
        plain = str(address)
        return Address(plain, plain, 4, int(address))
    prefix = IPv6Address(int(address) >> COUNTED_IPV6_PREFIX << COUNTED_IPV6_PREFIX)
    return Address(str(address), f"{prefix}/{COUNTED_IPV6_PREFIX}", 6, int(address))


def _ipv4(text: str) -> int | None:
    """The number of an IPv4 address in its one spelling; ``None`` of anything else.

    By hand, because ``ipaddress`` takes five times as long, and a flood from many addresses is parsed one by one.
    """
    parts = text.split(".")
    if len(parts) != 4 or not text.isascii():
        return None
    number = 0
    for part in parts:
        if not part.isdigit() or len(part) > 3 or (part[0] == "0" and part != "0"):
            return None
        byte = int(part)
        if byte > 255:
            return None
        number = number << 8 | byte
    return number


def parse_network(text: str) -> Network | None:
    """The network that ``text`` spells (an address is a network of one), or ``None``. Host bits are an error, so ``None``."""
    try:
        network = ip_network(text.strip())
    except ValueError:
        return None
    if network.version == 6 and network.network_address.ipv4_mapped is not None and network.prefixlen >= 96:
        return IPv4Network((int(network.network_address.ipv4_mapped), network.prefixlen - 96))
    return network


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether ``address`` lies in any of ``networks``."""
    return any(
        network.version == address.version
        and address.number >> (network.max_prefixlen - network.prefixlen)
        == int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
        for network in networks
    )


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """Who is asking: the peer, or, where the peer is a trusted proxy, the rightmost hop that is not one.

    ``forwarded`` is ``X-Forwarded-For`` split at commas, leftmost first. A hop that can't be read ends the walk: what stands
    left of it was not said by a proxy that we trust.
    """
    address = parse_address(peer) if peer else None
    if address is None or not trusted or not within(address, trusted):
        return address
    for hop in reversed(forwarded):
        candidate = parse_address(_without_port(hop.strip()))
        if candidate is None:
            return address
        address = candidate
        if not within(candidate, trusted):
            return candidate
    return address


def _without_port(hop: str) -> str:
    """``hop`` without the port that some proxies append (``192.0.2.1:4711``, ``[2001:db8::1]:4711``)."""
    hop = hop.strip('"')
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
