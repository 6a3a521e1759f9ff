"""Which block, if any, holds for an address: the longest prefix that has not expired, in a few dictionary look-ups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from apishield.core.abuse_detector.addresses import Address, parse_network
from apishield.core.records import Block

_BITS = {4: 32, 6: 128}
_ADDRESSED = frozenset({"ip", "cidr"})
_Table = dict[int, tuple[Block, ...]]
_Name = TypeVar("_Name", int, tuple[str, str])


class Blocklist:
    """The blocks (or allows) of one tenant, or of the operator, changed one at a time.

    Addresses and prefixes lie in one table per prefix length, so a look-up costs one dictionary access for each length in
    use, however many blocks there are. Keys, countries and networks (AS) are one plain table. Of several blocks of the same
    thing any that still holds will do.
    """

    __slots__ = ("_by_id", "_lengths", "_named", "names_any")

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        self.names_any = False  # read by every check, so no call
        self._by_id: dict[str, Block] = {}
        self._lengths: dict[int, dict[int, _Table]] = {4: {}, 6: {}}
        self._named: dict[tuple[str, str], tuple[Block, ...]] = {}
        for block in blocks:
            self.add(block)

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, block: Block) -> None:
        """Takes ``block`` in, instead of one with the same id."""
        self.discard(block.id)
        self._by_id[block.id] = block
        self.names_any = True
        network = parse_network(block.value) if block.kind in _ADDRESSED else None
        if network is None:
            name = (block.kind, block.value)
            self._named[name] = (*self._named.get(name, ()), block)
            return
        lengths = self._lengths[network.version]
        if network.prefixlen not in lengths:
            lengths[network.prefixlen] = {}
            self._lengths[network.version] = dict(sorted(lengths.items(), reverse=True))  # longest prefix first
        table = self._lengths[network.version][network.prefixlen]
        number = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
        table[number] = (*table.get(number, ()), block)

    def discard(self, block_id: str) -> None:
        """Forgets a block, if it is here."""
        block = self._by_id.pop(block_id, None)
        if block is None:
            return
        self.names_any = bool(self._by_id)
        network = parse_network(block.value) if block.kind in _ADDRESSED else None
        if network is None:
            _drop(self._named, (block.kind, block.value), block_id)
            return
        table = self._lengths[network.version][network.prefixlen]
        _drop(table, int(network.network_address) >> (network.max_prefixlen - network.prefixlen), block_id)
        if not table:
            del self._lengths[network.version][network.prefixlen]

    def of_address(self, address: Address, now_us: int) -> Block | None:
        """A block with the longest prefix around ``address`` that holds at ``now_us``."""
        bits = _BITS[address.version]
        for length, table in self._lengths[address.version].items():
            blocks = table.get(address.number >> (bits - length))
            if blocks is not None and (block := _holding(blocks, now_us)) is not None:
                return block
        return None

    def of_name(self, kind: str, value: str, now_us: int) -> Block | None:
        """A block of a key id, country or AS number that holds at ``now_us``."""
        blocks = self._named.get((kind, value))
        return None if blocks is None else _holding(blocks, now_us)


def _holding(blocks: tuple[Block, ...], now_us: int) -> Block | None:
    for block in blocks:
        if block.expires_at_us is None or now_us < block.expires_at_us:
            return block
    return None


def _drop(table: dict[_Name, tuple[Block, ...]], name: _Name, block_id: str) -> None:
    rest = tuple(block for block in table[name] if block.id != block_id)
    if rest:
        table[name] = rest
    else:
        del table[name]
