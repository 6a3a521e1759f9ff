"""What can be asked of a key: drafts, changes, imports; and the checks that all of them must pass."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import UNSET, UnsetType

from apishield.core.model import Limit
from apishield.core.records import Environment, Key, KeyKind, Metadata
from apishield.errors import Fault
from apishield.services.checks import Faults, is_quota
from apishield.stores.sql.unit_of_work import UnitOfWork

_SENT_ALONE = {"/rate_limits/0": "/rate_limit", "/rate_limits": "/rate_limit"}


class KeyDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A key to be made. Limits and quotas need no ids; the key's own get them.

    ``limit_sent_alone`` is whether the caller sent the one rate limit as ``rate_limit``: what is wrong with it is named so.
    """

    name: str
    kind: KeyKind = KeyKind.CALLER
    environment: Environment = Environment.LIVE
    customer_id: str | None = None
    scopes: tuple[str, ...] = ()
    rate_limits: tuple[Limit, ...] = ()
    limit_sent_alone: bool = False
    quotas: tuple[Limit, ...] = ()
    allowed_ips: tuple[str, ...] = ()
    metadata: Metadata = {}
    enabled: bool = True
    expires_at_us: int | None = None


class KeyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of a key; what is absent stays. A limit that keeps its name keeps its id, and so its state.

    ``limit_sent_alone`` is as in a draft.
    """

    name: str | UnsetType = UNSET
    customer_id: str | UnsetType | None = UNSET
    scopes: tuple[str, ...] | UnsetType = UNSET
    rate_limits: tuple[Limit, ...] | UnsetType = UNSET
    limit_sent_alone: bool = False
    quotas: tuple[Limit, ...] | UnsetType = UNSET
    allowed_ips: tuple[str, ...] | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    expires_at_us: int | UnsetType | None = UNSET


class ImportItem(msgspec.Struct, frozen=True, kw_only=True):
    """An existing key to be taken over: in clear (``secret``), or by its SHA-256 in hexadecimal; one of the two."""

    draft: KeyDraft
    secret: str | None = None
    sha256: str | None = None


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one item: a key, or what was wrong with it."""

    key: Key | None = None
    faults: tuple[Fault, ...] = ()


def faults_in(asked: KeyDraft | KeyChanges) -> Faults:
    """Collects what is wrong with ``asked``, under the names that the caller used."""
    return Faults(_SENT_ALONE if asked.limit_sent_alone else None)


def new_key(tx: UnitOfWork, tenant_id: str, draft: KeyDraft, *, hint: str, faults: Faults) -> Key:
    """A key of the tenant as the draft asks for it; what is wrong is added to ``faults``."""
    fields = {name: getattr(draft, name) for name in draft.__struct_fields__ if name in Key.__struct_fields__}
    key = Key(
        id=tx.new_id("key"), tenant_id=tenant_id, hint=hint, created_at_us=tx.now_us, updated_at_us=tx.now_us, **fields
    )
    return checked(key, faults, now_us=tx.now_us, new_id=tx.new_id)


def checked(key: Key, faults: Faults, *, previous: Key | None = None, now_us: int, new_id: Callable[[str], str]) -> Key:
    """The key with its limits named and numbered and its networks in one spelling; what is wrong is added to ``faults``.

    ``previous`` is the key before a change; its limits lend their ids, and an expiry that was not changed may be over.
    """
    faults.text("/name", key.name)
    faults.metadata("/metadata", key.metadata)
    if previous is None or key.expires_at_us != previous.expires_at_us:
        faults.instant("/expires_at", key.expires_at_us, now_us=now_us)
    _check_kind(key, faults)
    _check_names(key, faults, previous)
    for pointer, limits, quotas in (("/rate_limits", key.rate_limits, False), ("/quota", key.quotas, True)):
        for place, limit in enumerate(limits):
            if is_quota(limit) is not quotas:
                message = (
                    "is a rate limit, no quota" if quotas else "follows the calendar: it is a quota, no rate limit"
                )
                faults.add(f"{pointer}/{place}", message, "invalid_limit")
    return msgspec.structs.replace(
        key,
        scopes=faults.scopes("/scopes", key.scopes),
        allowed_ips=faults.networks("/allowed_ips", key.allowed_ips),
        rate_limits=faults.limits(
            "/rate_limits", key.rate_limits, previous=previous.rate_limits if previous else (), new_id=new_id
        ),
        quotas=faults.limits("/quota", key.quotas, previous=previous.quotas if previous else (), new_id=new_id),
    )


def _check_names(key: Key, faults: Faults, previous: Key | None) -> None:
    """A rate limit with the name of a quota would make two entries of one name in every answer."""
    same_limits = previous is not None and key.rate_limits == previous.rate_limits
    if same_limits and previous is not None and key.quotas == previous.quotas:
        return  # made before this was refused; it can still be renamed, or changed in other ways
    of_quotas = {limit.name for limit in key.quotas}
    for place, limit in enumerate(key.rate_limits):
        if limit.name in of_quotas:
            message = f"{limit.name[:64]!a} names a rate limit and a quota; limits are told apart by name"
            faults.add("/quota" if same_limits else f"/rate_limits/{place}/name", message, "invalid_limit")


def _check_kind(key: Key, faults: Faults) -> None:
    """A service key asks for others; what would bind a caller would never be looked at on it, so it is refused."""
    if key.kind is KeyKind.SERVICE:
        for name in ("scopes", "rate_limits", "quotas", "customer_id", "allowed_ips"):
            if getattr(key, name):
                faults.add(
                    "/quota" if name == "quotas" else f"/{name}",
                    "a service key has none: it is for SDKs and gateways, not for callers",
                )
