"""Runs the migrations, which lie in ``apishield/migrations`` of an installed package, or beside ``src`` in a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import apishield
from apishield.errors import ConfigurationError

# Any number will do, as long as all nodes take the same and nobody else does.
_ADVISORY_LOCK = 0x617069736869656C


def upgrade(connection: Connection) -> None:
    """Brings the schema up to date in the transaction of ``connection``; prints nothing.

    Of two nodes that start together one waits: on PostgreSQL for an advisory lock, on SQLite for the write lock that the
    transaction took when it began. The second finds nothing left to do.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def revisions(connection: Connection) -> tuple[str | None, str | None]:
    """The schema's revision, and the one that this version of the package needs."""
    return MigrationContext.configure(connection).get_current_revision(), _head()


@cache
def _head() -> str | None:
    return ScriptDirectory.from_config(_configuration()).get_current_head()


def _configuration() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    configuration.set_main_option("path_separator", "os")
    return configuration


def _scripts() -> Path:
    package = Path(apishield.__file__).resolve().parent
    for place in (package / "migrations", package.parents[1] / "migrations"):
        if (place / "env.py").is_file():
            return place
    message = f"the migrations are missing from {package}; install apishield again"
    raise ConfigurationError(message)
