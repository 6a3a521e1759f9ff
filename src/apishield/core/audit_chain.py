"""The audit log's chain: each entry carries a MAC over itself and the MAC before it, so that no row can be changed unseen.

The MAC is keyed, so whoever can write the database, but does not hold the master secret, can't make a chain that holds.
The head (number and MAC of the last entry) is sealed by itself: entries cut off at the end leave a head that says more.
Where the end of a chain does not hold when it is to go on, an entry that says so comes first: the break stays in the log.

What no chain can show by itself is a database set back as a whole, to a state that was true once. For that, compare with
numbers and MACs that were seen elsewhere, such as in the service's log (``expected``).

Source of the idea: B. Schneier and J. Kelsey, "Secure Audit Logs to Support Computer Forensics", ACM TISSEC 2(2), 1999.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping

import msgspec

from apishield.core.records import AuditEntry

GENESIS = ""
"""The MAC before the first entry."""

FIRST_ACTION = "tenant.created"
"""What every tenant's chain begins with: one that begins otherwise has lost its beginning."""

BREAK_ACTION = "audit.broken"
"""The entry that marks a break; ``after`` has its ``reason``."""

_VERSION_DIGITS = 5

KeyOfVersion = Callable[[int], bytes]
"""Gives the chain's key of a version of the master secret; ``KeyError`` where that version is not given any more."""


class ChainKey(msgspec.Struct, frozen=True):
    """The key that writes, the version of the master secret it is derived from, and the keys of other versions."""

    version: int
    key: bytes
    others: Mapping[int, bytes] = {}

    def __repr__(self) -> str:
        return f"ChainKey(version={self.version})"

    def of(self, version: int) -> bytes:
        """The key of a version. Raises ``KeyError`` where it is not given."""
        return self.key if version == self.version else self.others[version]


class Head(msgspec.Struct, frozen=True):
    """Where a chain ends. ``seal`` is a MAC over the rest."""

    tenant_id: str
    sequence: int
    mac: str
    seal: str


def entry_mac(key: ChainKey, entry: AuditEntry) -> str:
    """The MAC of an entry (whose own field is left out), as ``<version of the key>:<hex>``."""
    fields = [getattr(entry, name) for name in entry.__struct_fields__ if name != "mac"]
    return _mac(key, ["entry", *fields])


def make_head(key: ChainKey, tenant_id: str, sequence: int, mac: str) -> Head:
    """Seals the end of a chain."""
    return Head(tenant_id, sequence, mac, _mac(key, ["head", tenant_id, sequence, mac]))


def end_fault(tenant_id: str, head: Head | None, sequence: int, mac: str, key_of: KeyOfVersion) -> str | None:
    """What is wrong with the end of a chain whose last entry has this number and MAC; ``None`` where it holds."""
    if head is None:
        return "the head of the chain is missing"
    if head.sequence != sequence or head.mac != mac:
        return f"the chain ends at entry {sequence}, its head says {head.sequence}"
    return seal_fault(tenant_id, head, key_of)


def seal_fault(tenant_id: str, head: Head, key_of: KeyOfVersion) -> str | None:
    """What is wrong with a head by itself, wherever the chain ends."""
    return _mac_fault(
        head.seal, lambda key: make_head(key, tenant_id, head.sequence, head.mac).seal, key_of, "the head was changed"
    )


class ChainWalk:
    """Walks one tenant's chain in order and says, at the first entry that does not hold, what is wrong.

    A marked break is a fault too, but the chain goes on from there. ``expected`` are MACs of entries, by number, that were
    seen before.
    """

    def __init__(self, tenant_id: str, key_of: KeyOfVersion, expected: Mapping[int, str] | None = None) -> None:
        self._tenant_id = tenant_id
        self._key_of = key_of
        self._expected = expected or {}
        self._previous_mac = GENESIS
        self.sequence = 0

    def fault(self, entry: AuditEntry) -> str | None:
        """What is wrong with the next entry; ``None`` where it holds.

        After a fault the walk is over, unless it took the entry as the mark of a break (``sequence`` is the entry's).
        """
        if entry.tenant_id != self._tenant_id:
            return "the entry is of another tenant"
        if entry.action == BREAK_ACTION and entry.sequence > self.sequence and self._entry_fault(entry) is None:
            self.sequence, self._previous_mac = entry.sequence, entry.mac
            return f"the chain was broken before this entry: {(entry.after or {}).get('reason')}"
        if entry.sequence != self.sequence + 1:
            return f"entry {self.sequence + 1} is missing, {entry.sequence} follows"
        if entry.previous_mac != self._previous_mac:
            return "the entry does not continue the one before it"
        if fault := self._entry_fault(entry):
            return fault
        if self._expected.get(entry.sequence, entry.mac) != entry.mac:
            return "the entry is not the one that was seen before"
        self.sequence, self._previous_mac = entry.sequence, entry.mac
        return None

    def end_fault(self, head: Head | None) -> str | None:
        """What is wrong with the end of the chain, after its last entry; ``None`` where it holds."""
        seen = max(self._expected, default=0)
        if seen > self.sequence:
            return f"the chain ends at entry {self.sequence}, entry {seen} was seen before"
        return end_fault(self._tenant_id, head, self.sequence, self._previous_mac, self._key_of)

    def _entry_fault(self, entry: AuditEntry) -> str | None:
        return _mac_fault(entry.mac, lambda key: entry_mac(key, entry), self._key_of, "the entry was changed")


def _mac_fault(mac: str, expected: Callable[[ChainKey], str], key_of: KeyOfVersion, fault: str) -> str | None:
    head, _, _ = mac.partition(":")
    version = int(head) if head.isascii() and head.isdigit() and len(head) <= _VERSION_DIGITS else 0
    try:
        key = ChainKey(version, key_of(version))
    except KeyError:
        return f"signed with version {head!a} of the master secret, which is not given"
    return None if hmac.compare_digest(expected(key).encode(), mac.encode("utf-8", "replace")) else fault


def _mac(key: ChainKey, fields: list[object]) -> str:
    message = msgspec.json.encode([key.version, *fields], order="deterministic")
    return f"{key.version}:{hmac.digest(key.key, message, 'sha256').hex()}"
