"""Takes over keys that a tenant gave out before: in clear, or as SHA-256 where it kept no more than that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from apishield.core.key_manager.format import hint, inspect
from apishield.core.key_manager.hashing import SHA256_BYTES, digest, digest_of_hash
from apishield.core.records import Key, KeyKind, SecretHash
from apishield.errors import ProblemError
from apishield.services.checks import Faults
from apishield.services.key_drafts import ImportItem, ImportResult, faults_in, new_key
from apishield.services.secrets import Secrets
from apishield.stores.sql.unit_of_work import UnitOfWork

MAX_ITEMS = 1_000
MIN_SECRET_CHARACTERS = 24
MAX_SECRET_CHARACTERS = 512
HINT_OF_A_HASH = "…"
"""A hash shows nothing: even some of its digits would help to guess a weak key behind it."""


class _Candidate(NamedTuple):
    key: Key
    faults: Faults
    digests: tuple[bytes, ...]  # by every pepper, the one that writes first


async def import_keys(
    tx: UnitOfWork, secrets: Secrets, tenant_id: str, items: Sequence[ImportItem], *, room: int
) -> list[ImportResult]:
    """Stores what is sound, up to ``room`` keys; says of each item, in order, what became of it."""
    if not 1 <= len(items) <= MAX_ITEMS:
        raise ProblemError(
            "validation_failed", f"keys: an import has 1 to {MAX_ITEMS:,} keys, this one {len(items):,}."
        )
    candidates = [_candidate(tx, secrets, tenant_id, item) for item in items]
    await _refuse_repeated(tx, tenant_id, candidates)
    await _refuse_strange_customers(tx, tenant_id, candidates)
    for place, candidate in enumerate(c for c in candidates if not c.faults.found):
        if place >= room:
            candidate.faults.add(
                "", "the tenant has as many keys as it may have; revoke some that are no longer used", "ceiling_reached"
            )
    sound = [candidate for candidate in candidates if not candidate.faults.found]
    await tx.keys.insert_many(tenant_id, [candidate.key for candidate in sound])
    hashes = [SecretHash(sound_.key.id, sound_.digests[0], secrets.current_version) for sound_ in sound]
    await tx.secret_hashes.insert_many(tenant_id, "key", hashes, now_us=tx.now_us)
    return [
        ImportResult(faults=candidate.faults.found) if candidate.faults.found else ImportResult(key=candidate.key)
        for candidate in candidates
    ]


def _candidate(tx: UnitOfWork, secrets: Secrets, tenant_id: str, item: ImportItem) -> _Candidate:
    faults = faults_in(item.draft)
    key = new_key(tx, tenant_id, item.draft, hint=HINT_OF_A_HASH, faults=faults)
    if key.kind is not KeyKind.CALLER:
        faults.add("/kind", "only callers' keys can be imported; make a service key with POST /v1/keys")
    peppers = [secrets.pepper(version) for version in secrets.versions]
    if (item.secret is None) is (item.sha256 is None):
        faults.add("", "give either the key or its sha256")
        return _Candidate(key, faults, ())
    if item.secret is not None:
        _check_secret(item.secret, faults)
        key = msgspec.structs.replace(key, hint=hint(item.secret))
        return _Candidate(key, faults, tuple(digest(pepper, item.secret) for pepper in peppers))
    known_hash = _read_hash(item.sha256 or "", faults)
    return _Candidate(key, faults, tuple(digest_of_hash(pepper, known_hash) for pepper in peppers))


def _check_secret(secret: str, faults: Faults) -> None:
    if not MIN_SECRET_CHARACTERS <= len(secret) <= MAX_SECRET_CHARACTERS:
        faults.add(
            "/key", f"must have {MIN_SECRET_CHARACTERS} to {MAX_SECRET_CHARACTERS} characters, has {len(secret)}"
        )
    elif not (secret.isascii() and secret.isprintable() and " " not in secret):
        faults.add("/key", "must be printable ASCII without spaces: it has to fit into a header")
    else:
        kind, intact = inspect(secret)
        if kind is not None and not intact:
            faults.add("/key", f"begins with {kind.value}, but its checksum is wrong: it would be refused as mistyped")


def _read_hash(text: str, faults: Faults) -> bytes:
    try:
        value = bytes.fromhex(text) if text.isascii() and text.isalnum() else b""
    except ValueError:
        value = b""
    if len(value) != SHA256_BYTES:
        faults.add("/sha256", f"must be a SHA-256 in hexadecimal, {2 * SHA256_BYTES} digits")
        return bytes(SHA256_BYTES)
    return value


async def _refuse_repeated(tx: UnitOfWork, tenant_id: str, candidates: Sequence[_Candidate]) -> None:
    taken = await tx.secret_hashes.taken(tenant_id, [digest for c in candidates for digest in c.digests])
    times = Counter(
        candidate.digests[0] for candidate in candidates if candidate.digests and not candidate.faults.found
    )
    for candidate in candidates:
        if candidate.faults.found:
            continue
        if not taken.isdisjoint(candidate.digests):
            candidate.faults.add("", "the tenant has this key already", "conflict")
        elif times[candidate.digests[0]] > 1:
            candidate.faults.add("", "the same key is in this import more than once", "conflict")


async def _refuse_strange_customers(tx: UnitOfWork, tenant_id: str, candidates: Sequence[_Candidate]) -> None:
    known: dict[str, bool] = {}
    for candidate in candidates:
        customer_id = candidate.key.customer_id
        if customer_id is None:
            continue
        if customer_id not in known:
            known[customer_id] = await tx.customers.get(tenant_id, customer_id) is not None
        if not known[customer_id]:
            candidate.faults.add("/customer_id", f"there is no customer {customer_id[:64]!a}")
