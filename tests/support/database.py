"""One fixture for both databases: a migrated ``Database`` on a SQLite file, then on the real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from apishield.services.secrets import Secrets
from apishield.stores.sql.database import Database
from tests.support.clock import ManualClock

SECRETS = Secrets.parse("1:" + "c2VjcmV0" * 8)
"""A master secret for tests."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The plain URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/apishield.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest_asyncio.fixture
async def database(database_url: str, clock: ManualClock) -> AsyncIterator[Database]:
    """An empty database with the newest schema."""
    database = Database(database_url, clock, audit_key=SECRETS.audit_key())
    await database.migrate()
    yield database
    await database.close()


def plain_url(database: Database) -> str:
    """The URL of a database as an operator would write it."""
    url = database.url
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=False)
