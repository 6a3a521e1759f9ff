"""What the use cases of the control plane share: their parts, the ceilings, whose thing it is."""

from __future__ import annotations

import secrets as system_random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from apishield.core.key_manager.format import make_secret
from apishield.core.key_manager.hashing import digest
from apishield.core.records import Actor, Customer, Endpoint, Key, Policy, Role, SecretHash, Tenant
from apishield.errors import ProblemError
from apishield.services.secrets import Secrets
from apishield.stores.sql.database import Database
from apishield.stores.sql.unit_of_work import UnitOfWork

Changeable = Tenant | Key | Customer | Policy | Endpoint


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """How much a tenant can have at once. Revoked keys, and revoked or expired tokens, are records and don't count."""

    keys: int = 100_000
    customers: int = 100_000
    policies: int = 1_000
    overrides: int = 20_000
    endpoints: int = 5_000
    blocks: int = 100_000
    tokens: int = 100


class Service:
    """A use case's parts. Each method is one transaction, and takes who is asking first."""

    def __init__(
        self,
        database: Database,
        secrets: Secrets,
        *,
        entropy: Callable[[int], bytes] = system_random.token_bytes,
        ceilings: Ceilings | None = None,
    ) -> None:
        self._database = database
        self._secrets = secrets
        self._entropy = entropy
        self._ceilings = ceilings or Ceilings()

    def _new_secret(self, prefix: str, owner_id: str) -> tuple[str, SecretHash]:
        """A new secret, and what is stored of it."""
        secret = make_secret(prefix, self._entropy)
        return secret, SecretHash(owner_id, digest(self._secrets.pepper(), secret), self._secrets.current_version)


async def hold_tenant(tx: UnitOfWork, actor: Actor) -> Tenant:
    """The actor's tenant, held until the commit: whoever adds to what it owns does so one after the other."""
    tenant_id = tenant_of(actor)
    tenant = await tx.tenants.lock(tenant_id)
    if tenant is None:
        raise not_found("tenant", tenant_id)
    return tenant


def tenant_of(actor: Actor) -> str:
    """The tenant in which the actor acts. Raises 422 ``tenant_required`` for an operator who named none."""
    if actor.tenant_id is None:
        raise ProblemError("tenant_required", "Name the tenant in the header X-APIShield-Tenant.")
    return actor.tenant_id


def require_operator(actor: Actor, what: str) -> None:
    """Raises 403 ``forbidden`` for anybody but the operator."""
    if actor.role is not Role.OPERATOR:
        raise ProblemError("forbidden", f"Only the operator {what}.")


def not_found(what: str, object_id: str) -> ProblemError:
    """404, the same for another tenant's object as for one that never was."""
    return ProblemError("not_found", f"There is no {what} {object_id[:64]!a}.")


def refuse_over(ceiling: int, what: str, *, has: int | None = None, ending: str = "Delete one") -> ProblemError:
    """422 for a ceiling that is reached, or, where the tenant ``has`` fewer and wants several more, that would be passed.

    ``ending`` is what makes room: revoking for what keeps its record, deleting for the rest.
    """
    if has is not None:
        message = (
            f"The tenant may have {ceiling:,} {what} and has {has:,} besides these. Ask for fewer, or delete some."
        )
    else:
        message = f"The tenant has {ceiling:,} {what}, which is the most it may have. {ending} that is no longer used."
    return ProblemError("ceiling_reached", message)


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an audit entry of a change shows: the fields that are not what they were."""
    names = [name for name in after if before.get(name) != after[name]]
    return {name: before.get(name) for name in names}, {name: after[name] for name in names}


def is_unchanged(before: Changeable, after: Changeable) -> bool:
    """Whether a change changes nothing, so that there is nothing to write, to announce or to audit."""
    return msgspec.structs.replace(after, updated_at_us=before.updated_at_us) == before


def given(changes: msgspec.Struct) -> dict[str, object]:
    """The fields that are to be changed."""
    fields = {name: getattr(changes, name) for name in changes.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not UNSET}
