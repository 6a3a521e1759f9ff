"""Which block, if any, holds for an address: the longest prefix that has not expired, in a few dictionary look-ups."""

from __future__ import annotations

from collections.abc import Iterable

from apishield.core.abuse_detector.addresses import Address, parse_network
from apishield.core.records import Block

_BITS = {4: 32, 6: 128}


class Blocklist:
    """The blocks (or allows) of one tenant, or of the operator, compiled once per change.

    Addresses and prefixes lie in one table per prefix length, so a look-up costs one dictionary access for each length in
    use, however many blocks there are. Keys, countries and networks (AS) are plain tables.
    """

    __slots__ = ("_lengths", "_named", "_tables")

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._tables: dict[tuple[int, int], dict[int, Block]] = {}
        self._named: dict[tuple[str, str], Block] = {}
        for block in blocks:
            if block.kind in {"ip", "cidr"}:
                network = parse_network(block.value)
                if network is None:
                    continue
                table = self._tables.setdefault((network.version, network.prefixlen), {})
                number = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
                table[number] = _lasting(table.get(number), block)
            else:
                name = (block.kind, block.value)
                self._named[name] = _lasting(self._named.get(name), block)
        self._lengths = {
            version: [
                (_BITS[version] - length, table)
                for (of_version, length), table in sorted(self._tables.items(), reverse=True)
                if of_version == version
            ]
            for version in _BITS
        }

    def __bool__(self) -> bool:
        return bool(self._tables or self._named)

    def of_address(self, address: Address, now_us: int) -> Block | None:
        """The block with the longest prefix around ``address`` that holds at ``now_us``."""
        for shift, table in self._lengths[address.version]:
            block = table.get(address.number >> shift)
            if block is not None and (block.expires_at_us is None or now_us < block.expires_at_us):
                return block
        return None

    def of_name(self, kind: str, value: str, now_us: int) -> Block | None:
        """The block of a key id, country or AS number that holds at ``now_us``."""
        block = self._named.get((kind, value))
        if block is not None and (block.expires_at_us is None or now_us < block.expires_at_us):
            return block
        return None


def _lasting(one: Block | None, other: Block) -> Block:
    """Of two blocks of the same thing the one that holds longer, so that a short one never hides a long one."""
    if one is None or other.expires_at_us is None:
        return other
    if one.expires_at_us is None or one.expires_at_us >= other.expires_at_us:
        return one
    return other
