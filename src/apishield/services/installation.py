"""The operator's token that a first start makes, when none is given: its digest lies in the database, for all nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from apishield.core.key_manager.format import SecretKind, make_secret
from apishield.core.key_manager.hashing import digest
from apishield.services.secrets import Secrets
from apishield.stores.sql.database import Database

_OPERATOR: Final = "operator_token:"


async def ensure_operator(database: Database, secrets: Secrets, entropy: Callable[[int], bytes]) -> str | None:
    """Makes an operator's token where there is none. Returns it, the only time that it can be shown, or ``None``."""
    async with database.transaction() as tx:
        if await tx.meta.starting_with(_OPERATOR):
            return None
        token = make_secret(SecretKind.OPERATOR_TOKEN, entropy)
        await tx.meta.put(f"{_OPERATOR}{secrets.current_version}", digest(secrets.pepper(), token).hex())
        return token


async def replace_operator(database: Database, secrets: Secrets, entropy: Callable[[int], bytes]) -> str:
    """Makes a new operator's token; the former one stops to work on each node within a second."""
    async with database.transaction() as tx:
        token = make_secret(SecretKind.OPERATOR_TOKEN, entropy)
        for name in await tx.meta.starting_with(_OPERATOR):
            await tx.meta.remove(name)
        await tx.meta.put(f"{_OPERATOR}{secrets.current_version}", digest(secrets.pepper(), token).hex())
        return token


async def operator_digests(database: Database, secrets: Secrets, given: str | None) -> frozenset[bytes]:
    """Under which digests the operator is known: of the ``given`` token, else of the one made at the first start."""
    if given is not None:
        return frozenset(digest(secrets.pepper(version), given) for version in secrets.versions)
    async with database.read() as tx:
        return frozenset(bytes.fromhex(value) for value in (await tx.meta.starting_with(_OPERATOR)).values())
