"""Ids of decisions: short to check, impossible to guess, and telling where the decision's event lies.

``dec_`` + base32hex of a UUIDv7 (RFC 9562) and a 65-bit MAC over it and the tenant. The UUID's random bits are the spool
(32 bits, one a process), whether the store holds a record to settle (1 bit) and the sequence (39 bits), so that a report
finds its event without an index. The MAC makes a foreign or invented id cost no I/O, and a receipt's address a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

_PREFIX = "dec_"
_ALPHABET = "0123456789abcdefghijklmnopqrstuv"  # base32hex (RFC 4648, section 7): sorts like the bits it writes
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_UUID_DIGITS = 26
_MAC_DIGITS = 13  # five bits each: as many bytes of BLAKE2 are made, and the others of their bits left away
_DIGIT_OF_BYTE = _ALPHABET.encode() * 8
_LENGTH = len(_PREFIX) + _UUID_DIGITS + _MAC_DIGITS
_SEQUENCE_BITS = 40
_HELD_BIT = 1 << 39
_SEQUENCE_MASK = _HELD_BIT - 1
_SEQUENCE_DIGITS = 8


class DecisionRef(NamedTuple):
    """Where a decision's event lies, and when it was made."""

    at_ms: int
    spool: int
    sequence: int
    held: bool = False


class DecisionIds:
    """Makes and checks the ids of one process.

    ``keys`` are shared by all nodes: the first writes, all verify. ``spool`` is this process's own.
    """

    __slots__ = ("_copy_mac", "_head", "_head_ms", "_keys", "_sequence", "_spool", "_tail", "_tail_before")

    def __init__(self, keys: Sequence[bytes], spool: int) -> None:
        self._keys = tuple(keys)
        self._copy_mac = blake2b(key=keys[0], digest_size=_MAC_DIGITS).copy  # with the key worked in: half the time
        self._spool = spool & 0xFFFF_FFFF
        self._sequence = 0
        self._head_ms = -1
        self._head = ""
        self._tail_before = -1
        self._tail = ""

    @property
    def spool(self) -> int:
        """The spool of this process: where the events of its decisions lie."""
        return self._spool

    @property
    def sequence(self) -> int:
        """The number of the decision whose id was made last."""
        return self._sequence

    def make(self, tenant_id: str, now_us: int, *, held: bool = False) -> str:
        """A new id for a decision of ``tenant_id`` at ``now_us``; ``held`` says that a record is kept, to settle by."""
        self._sequence = sequence = (self._sequence + 1) & _SEQUENCE_MASK
        if held:
            sequence |= _HELD_BIT
        at_ms = now_us // 1000
        if at_ms != self._head_ms:  # all but the last eight digits are the same for every decision of a millisecond
            self._head_ms = at_ms
            self._head = _PREFIX + _digits(_uuid(at_ms, self._spool << _SEQUENCE_BITS))[:-_SEQUENCE_DIGITS]
        pairs = _PAIRS
        before = sequence >> 10
        if before != self._tail_before:  # likewise all but the last two digits for every thousand
            self._tail_before = before
            self._tail = pairs[before >> 20] + pairs[before >> 10 & 0x3FF] + pairs[before & 0x3FF]
        uuid = self._head + self._tail + pairs[sequence & 0x3FF]
        hashed = self._copy_mac()
        hashed.update((uuid + tenant_id).encode())
        return uuid + hashed.digest().translate(_DIGIT_OF_BYTE).decode()

    def read(self, decision_id: str, tenant_id: str) -> DecisionRef | None:
        """Where the event of ``decision_id`` lies, or ``None`` where the id was not made for ``tenant_id``."""
        found = self.read_unproven(decision_id)
        if found is None:
            return None
        uuid, mac = decision_id[:-_MAC_DIGITS], decision_id[-_MAC_DIGITS:]
        if not any(compare_digest(mac.encode(), self._mac(key, uuid, tenant_id)) for key in self._keys):
            return None
        return found

    @staticmethod
    def read_unproven(decision_id: str) -> DecisionRef | None:
        """Where the event would lie if somebody's id said so; whose it is, and that it is no invention, ``read`` proves."""
        if len(decision_id) != _LENGTH or not decision_id.startswith(_PREFIX) or not decision_id.isascii():
            return None
        number = _number(decision_id[len(_PREFIX) : -_MAC_DIGITS])
        if number is None or number >> 128:
            return None
        random = (number >> 64 & 0xFFF) << 60 | number & (1 << 60) - 1
        return DecisionRef(number >> 80, random >> _SEQUENCE_BITS, random & _SEQUENCE_MASK, bool(random & _HELD_BIT))

    def write(self, tenant_id: str, ref: DecisionRef) -> str:
        """The id of a decision of ``tenant_id`` that was made before, by whatever process."""
        sequence = ref.sequence | (_HELD_BIT if ref.held else 0)
        uuid = _PREFIX + _digits(_uuid(ref.at_ms, ref.spool << _SEQUENCE_BITS | sequence))
        return uuid + self._mac(self._keys[0], uuid, tenant_id).decode()

    @staticmethod
    def _mac(key: bytes, uuid: str, tenant_id: str) -> bytes:
        mac = blake2b((uuid + tenant_id).encode(), key=key, digest_size=_MAC_DIGITS).digest()
        return mac.translate(_DIGIT_OF_BYTE)


def _uuid(at_ms: int, random: int) -> int:
    """The UUIDv7: 48 bits of time, the version, 12 random bits, the variant (and two zero bits), 60 random bits."""
    return (at_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | random >> 60 << 64 | 0x2 << 62 | random & (1 << 60) - 1


def _digits(number: int) -> str:
    """``number``, of up to 130 bits, in 26 base32hex digits."""
    return "".join([_PAIRS[number >> shift & 0x3FF] for shift in range(_UUID_DIGITS * 5 - 10, -1, -10)])


def _number(digits: str) -> int | None:
    number = 0
    for digit in digits:
        value = _VALUES.get(digit)
        if value is None:
            return None
        number = number << 5 | value
    return number
