"""The audit log's chain: each entry carries a MAC over itself and the MAC before it, so that no row can be changed unseen.

The MAC is keyed, so whoever can write the database, but does not hold the master secret, can't make a chain that holds.
The head (number and MAC of the last entry) is sealed by itself: entries cut off at the end leave a head that says more.

Source of the idea: B. Schneier and J. Kelsey, "Secure Audit Logs to Support Computer Forensics", ACM TISSEC 2(2), 1999.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import msgspec

from apishield.core.records import AuditEntry

GENESIS = ""
"""The MAC before the first entry."""

_VERSION_DIGITS = 5

KeyOfVersion = Callable[[int], bytes]
"""Gives the chain's key of a version of the master secret; ``KeyError`` where that version is not given any more."""


class ChainKey(msgspec.Struct, frozen=True):
    """The key that writes, and the version of the master secret it is derived from."""

    version: int
    key: bytes

    def __repr__(self) -> str:
        return f"ChainKey(version={self.version})"


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


class ChainWalk:
    """Walks one tenant's chain in order and says, at the first entry that does not hold, what is wrong."""

    def __init__(self, tenant_id: str, key_of: KeyOfVersion) -> None:
        self._tenant_id = tenant_id
        self._key_of = key_of
        self._previous_mac = GENESIS
        self.sequence = 0

    def fault(self, entry: AuditEntry) -> str | None:
        """What is wrong with the next entry; ``None`` where it holds."""
        if entry.tenant_id != self._tenant_id:
            return "the entry is of another tenant"
        if entry.sequence != self.sequence + 1:
            return f"entry {self.sequence + 1} is missing, {entry.sequence} follows"
        if entry.previous_mac != self._previous_mac:
            return "the entry does not continue the one before it"
        if fault := self._mac_fault(entry.mac, lambda key: entry_mac(key, entry)):
            return fault
        self.sequence, self._previous_mac = entry.sequence, entry.mac
        return None

    def end_fault(self, head: Head | None) -> str | None:
        """What is wrong with the end of the chain, after its last entry; ``None`` where it holds."""
        if head is None:
            return "the head of the chain is missing"
        if head.sequence != self.sequence or head.mac != self._previous_mac:
            return f"the chain ends at entry {self.sequence}, its head says {head.sequence}"

        return self._mac_fault(
            head.seal, lambda key: make_head(key, self._tenant_id, head.sequence, head.mac).seal, "the head was changed"
        )

    def _mac_fault(
        self, mac: str, expected: Callable[[ChainKey], str], fault: str = "the entry was changed"
    ) -> str | None:
        head, _, _ = mac.partition(":")
        version = int(head) if head.isascii() and head.isdigit() and len(head) <= _VERSION_DIGITS else 0
        try:
            key = ChainKey(version, self._key_of(version))
        except KeyError:
            return f"signed with version {head!a} of the master secret, which is not given"
        return None if hmac.compare_digest(expected(key).encode(), mac.encode("utf-8", "replace")) else fault


def _mac(key: ChainKey, fields: list[object]) -> str:
    message = msgspec.json.encode([key.version, *fields], order="deterministic")
    return f"{key.version}:{hmac.digest(key.key, message, 'sha256').hex()}"
