"""The hashed secrets of keys and tokens. A rotated key has several until the grace is over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.records import SecretHash
from apishield.stores.sql.tables import secrets

OwnerKind = Literal["key", "token"]

_DIGESTS_AT_ONCE = 500


class SecretHashesRepository:
    """Secrets, always within one tenant: two tenants may import the same one."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert_many(
        self, tenant_id: str, owner_kind: OwnerKind, hashes: Iterable[SecretHash], *, now_us: int
    ) -> None:
        """Adds secrets of keys, or of tokens."""
        rows = [
            {
                "tenant_id": tenant_id,
                "digest": secret.digest,
                "owner_kind": owner_kind,
                "owner_id": secret.owner_id,
                "pepper_version": secret.pepper_version,
                "expires_at_us": secret.expires_at_us,
                "created_at_us": now_us,
            }
            for secret in hashes
        ]
        if rows:
            await self._connection.execute(insert(secrets), rows)

    async def taken(self, tenant_id: str, digests: Sequence[bytes]) -> set[bytes]:
        """Which of these the tenant has already."""
        found: set[bytes] = set()
        for start in range(0, len(digests), _DIGESTS_AT_ONCE):
            some = digests[start : start + _DIGESTS_AT_ONCE]
            statement = select(secrets.c.digest).where(secrets.c.tenant_id == tenant_id, secrets.c.digest.in_(some))
            found.update(bytes(digest) for digest in await self._connection.scalars(statement))
        return found

    async def end_by(self, tenant_id: str, owner_kind: OwnerKind, owner_id: str, *, end_us: int, now_us: int) -> None:
        """Lets no secret of the owner work longer than ``end_us``; one that has ended by ``now_us`` is removed."""
        own = _of(tenant_id, owner_kind, owner_id)
        later = or_(secrets.c.expires_at_us.is_(None), secrets.c.expires_at_us > end_us)
        await self._connection.execute(update(secrets).where(own, later).values(expires_at_us=end_us))
        await self._connection.execute(delete(secrets).where(own, secrets.c.expires_at_us <= now_us))

    async def clamp(self, tenant_id: str, owner_kind: OwnerKind, owner_id: str, *, end_us: int) -> None:
        """Shortens the grace of rotated secrets to ``end_us``; the current one has none and stays as it is."""
        own = _of(tenant_id, owner_kind, owner_id)
        await self._connection.execute(
            update(secrets).where(own, secrets.c.expires_at_us > end_us).values(expires_at_us=end_us)
        )

    async def renew(self, tenant_id: str, digest: bytes, *, by: bytes, pepper_version: int) -> SecretHash | None:
        """Replaces a secret's digest by the one of a newer pepper; ``None`` where it is gone or was renewed already."""
        statement = (
            update(secrets)
            .where(secrets.c.tenant_id == tenant_id, secrets.c.digest == digest)
            .values(digest=by, pepper_version=pepper_version)
            .returning(*_COLUMNS)
        )
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else hash_of(row)

    async def delete_of_tenant(self, tenant_id: str) -> None:
        """Removes all secrets of a tenant."""
        await self._connection.execute(delete(secrets).where(secrets.c.tenant_id == tenant_id))


_COLUMNS = (secrets.c.owner_id, secrets.c.digest, secrets.c.pepper_version, secrets.c.expires_at_us)


def hashes_of(owner_kind: OwnerKind) -> Select[Any]:
    """Reads the secrets of all tenants' keys, or tokens: for the snapshot."""
    return select(*_COLUMNS).where(secrets.c.owner_kind == owner_kind)


def hash_of(row: Any) -> SecretHash:
    """A row of ``hashes_of`` as a record."""
    return SecretHash(row[0], bytes(row[1]), row[2], row[3])


def _of(tenant_id: str, owner_kind: OwnerKind, owner_id: str) -> ColumnElement[bool]:
    return and_(secrets.c.tenant_id == tenant_id, secrets.c.owner_kind == owner_kind, secrets.c.owner_id == owner_id)
