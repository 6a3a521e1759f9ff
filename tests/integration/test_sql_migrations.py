"""The migrations make what the code expects, on both databases, also when two nodes start at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from apishield.errors import ConfigurationError
from apishield.stores.sql.database import Database
from apishield.stores.sql.tables import metadata
from tests.support.clock import ManualClock


async def test_the_migrated_schema_is_the_one_of_the_tables(database: Database) -> None:
    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_again_changes_nothing_and_prints_nothing(
    database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    described = await database.check()
    await database.migrate()
    assert await database.check() == described
    assert capfd.readouterr() == ("", "")


NEWEST = max(path.name[:4] for path in (Path(__file__).parents[2] / "migrations" / "versions").glob("*.py"))


async def test_nodes_that_start_at_once_migrate_once(database_url: str, clock: ManualClock) -> None:
    nodes = [Database(database_url, clock) for _ in range(4)]
    await asyncio.gather(*(node.migrate() for node in nodes))
    for node in nodes:
        assert f"schema {NEWEST}" in await node.check()
        await node.close()


async def test_a_schema_that_was_never_migrated_is_named_by_the_check(database_url: str, clock: ManualClock) -> None:
    database = Database(database_url, clock)
    if database.is_sqlite:
        assert database.url.database is not None
        open(database.url.database, "w").close()  # noqa: PTH123
    with pytest.raises(ConfigurationError, match=f"schema is at nothing, this version needs {NEWEST}"):
        await database.check()
    await database.close()
