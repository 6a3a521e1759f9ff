"""Stops a node whose master secret is not the one that the database was written with."""

from __future__ import annotations

import hmac

from apishield.errors import ConfigurationError
from apishield.services.secrets import VARIABLE, Secrets
from apishield.stores.sql.database import Database

_PREFIX = "secret_check:"
_LOCK = "secret_check"


async def check_secret(database: Database, secrets: Secrets) -> None:
    """Compares the check values of all versions that both sides know; the database learns the new ones.

    Raises ``ConfigurationError`` where a version differs, or none is known: then every key would be unknown, and what is
    encrypted could not be read.
    """
    async with database.transaction() as tx:
        await tx.meta.put(
            _LOCK, ""
        )  # its row is held until the commit, so that two first starts go one after the other
        known = await tx.meta.starting_with(_PREFIX)
        given = {f"{_PREFIX}{version}": secrets.check_value(version) for version in secrets.versions}
        shared = known.keys() & given.keys()
        wrong = [name for name in shared if not hmac.compare_digest(known[name], given[name])]
        if wrong or (known and not shared):
            versions = ", ".join(sorted(name.removeprefix(_PREFIX) for name in known))
            message = (
                f"{VARIABLE} is not the one that this database was written with (versions {versions}). "
                "Set the one from the first start, or use an empty database."
            )
            raise ConfigurationError(message)
        for name in given.keys() - known.keys():
            await tx.meta.put(name, given[name])
