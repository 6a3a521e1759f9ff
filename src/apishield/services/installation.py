"""What a first start leaves in the database, and what every later start compares: the secret's check values, the operator.

A node with another master secret could verify no key and would break the audit chain, so it is stopped before it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from apishield.core.key_manager.format import SecretKind, make_secret
from apishield.core.key_manager.hashing import digest
from apishield.errors import ConfigurationError
from apishield.services.secrets import Secrets
from apishield.stores.sql.database import Database

_CHECK: Final = "secret_check:"
_OPERATOR: Final = "operator_token:"


async def check_secret(database: Database, secrets: Secrets) -> None:
    """Raises ``ConfigurationError`` where this is not the secret that the database was made with; notes new versions."""
    async with database.transaction() as tx:
        known = {int(name.removeprefix(_CHECK)): value for name, value in (await tx.meta.starting_with(_CHECK)).items()}
        shared = [version for version in secrets.versions if version in known]
        wrong = [version for version in shared if known[version] != secrets.check_value(version)]
        if wrong or (known and not shared):
            version = wrong[0] if wrong else max(known)
            raise ConfigurationError(
                f"APISHIELD_SECRET is not the secret that this database was made with (version {version} differs or is "
                "missing). Give the one that was used before; to rotate it, put a new version in front and keep the old."
            )
        for version in secrets.versions:
            if version not in known:
                await tx.meta.put(f"{_CHECK}{version}", secrets.check_value(version))


async def ensure_operator(database: Database, secrets: Secrets, entropy: Callable[[int], bytes]) -> str | None:
    """Makes an operator's token where there is none. Returns it, the only time that it can be shown, or ``None``."""
    async with database.transaction() as tx:
        if await tx.meta.starting_with(_OPERATOR):
            return None
        token = make_secret(SecretKind.OPERATOR_TOKEN, entropy)
        await tx.meta.put(f"{_OPERATOR}{secrets.current_version}", digest(secrets.pepper(), token).hex())
        return token


async def replace_operator(database: Database, secrets: Secrets, entropy: Callable[[int], bytes]) -> str:
    """Makes a new operator's token; the former one stops to work on each node at its next start."""
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
