"""Transactions: all or nothing, one after the other, and what fails is said and was not done."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from apishield.errors import ConfigurationError, ProblemError
from apishield.stores.sql import database as database_module
from apishield.stores.sql import engine
from apishield.stores.sql.database import Database
from tests.support.clock import ManualClock
from tests.support.database import plain_url
from tests.support.processes import descendants
from tests.support.services import PostgresServer


async def test_an_exception_undoes_all_and_runs_nothing_that_waited_for_the_commit(database: Database) -> None:
    told: list[int] = []
    ran: list[str] = []
    database.on_commit(told.append)

    async def fail_late() -> None:
        async with database.transaction() as tx:
            await tx.meta.put("name", "value")
            tx.changed("key", "ten_1", "key_1")
            tx.after_commit(lambda: ran.append("ran"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail_late()
    async with database.read() as tx:
        assert await tx.meta.get("name") is None
    assert await database.feed.changes_after(0) == []
    assert (told, ran) == ([], [])


async def test_what_waits_for_the_commit_sees_it_done(database: Database) -> None:
    seen: list[str | None] = []

    async def look() -> None:
        async with database.read() as tx:
            seen.append(await tx.meta.get("name"))

    async with database.transaction() as tx:
        tx.after_commit(look)
        await tx.meta.put("name", "value")
    assert seen == ["value"]


async def test_a_failure_after_the_commit_is_logged_and_changes_no_answer(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(sequence: int) -> None:
        raise ConnectionError

    database.on_commit(fail)
    async with database.transaction() as tx:
        tx.changed("key", "ten_1", "key_1")
    assert "after a commit" in caplog.text
    assert await database.feed.changes_after(0)


async def test_readers_that_are_cancelled_over_and_over_have_their_connections_closed(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A server cancels whoever works for a caller that has gone at each turn of the loop, also while it cleans up."""
    busy = text(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT count(*) FROM n"
    )

    async def read() -> None:
        async with database.read() as work:
            await work.connection.execute(busy)

    for turns in range(25):
        reader = asyncio.create_task(read())
        for _ in range(turns):
            await asyncio.sleep(0)
        while not reader.done():
            reader.cancel()
            await asyncio.sleep(0)
    gc.collect()
    closing = asyncio.all_tasks() - {asyncio.current_task()}
    if closing:
        _, unfinished = await asyncio.wait(closing, timeout=10)
        assert not unfinished
    gc.collect()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
    async with database.read() as work:
        assert await work.connection.scalar(text("SELECT 1")) == 1


async def test_a_reader_that_is_cancelled_as_it_gets_its_connection_leaves_none_open(
    postgres_url: str, clock: ManualClock
) -> None:
    database = Database(postgres_url, clock)
    before = asyncio.all_tasks()
    reader = asyncio.create_task(database.feed.changes_after(0))
    while not (opening := asyncio.all_tasks() - before - {reader}):
        await asyncio.sleep(0)
    for task in opening:  # the connection is there, and whoever waits for it has not been woken yet
        task.add_done_callback(lambda _: reader.cancel())
    with pytest.raises(asyncio.CancelledError):
        await reader
    while closing := asyncio.all_tasks() - before:
        await asyncio.wait(closing)
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0
    await database.close()


async def test_transactions_that_read_and_write_lose_no_update(database: Database, clock: ManualClock) -> None:
    other_node = Database(plain_url(database), clock)

    async def increment(node: Database) -> None:
        async with node.transaction() as tx:
            if not node.is_sqlite:
                await tx.connection.execute(text("LOCK TABLE meta"))
            await tx.meta.put("count", str(int(await tx.meta.get("count") or 0) + 1))

    await asyncio.gather(*(increment(node) for node in (database, other_node) for _ in range(20)))
    async with database.read() as tx:
        assert await tx.meta.get("count") == "40"
    await other_node.close()


async def test_a_view_stays_at_its_moment_whatever_is_written_meanwhile(database: Database) -> None:
    async with database.read() as view:
        assert await view.meta.get("name") is None
        async with database.transaction() as tx:
            await tx.meta.put("name", "value")
        assert await view.meta.get("name") is None


async def test_two_that_make_the_same_at_once_get_one_made_and_one_conflict(database: Database) -> None:
    insert = text("INSERT INTO meta (name, value) VALUES ('name', 'value')")

    async def make() -> str:
        try:
            async with database.transaction() as tx:
                await tx.connection.execute(insert)
        except ProblemError as problem:
            return problem.code
        return "made"

    assert sorted(await asyncio.gather(make(), make())) == ["conflict", "made"]


async def test_a_full_disk_is_said_and_loses_nothing_that_was_acknowledged(tmp_path: Path, clock: ManualClock) -> None:
    database = Database(f"sqlite:///{tmp_path}/apishield.db", clock)
    await database.migrate()
    acknowledged: list[str] = []

    async def fill() -> None:
        for number in range(1000):
            async with database.transaction() as tx:
                await tx.connection.execute(text("PRAGMA max_page_count = 100"))
                await tx.meta.put(f"name-{number}", "x" * 4000)
            acknowledged.append(f"name-{number}")

    with pytest.raises(ProblemError) as caught:
        await fill()
    assert caught.value.code == "storage_full"
    assert acknowledged
    async with database.transaction() as tx:
        await tx.connection.execute(text("PRAGMA max_page_count = 1000"))
        assert sorted(await tx.meta.starting_with("name-")) == sorted(acknowledged)
        await tx.meta.put("after", "there is space again")
    await database.close()


async def test_a_locked_sqlite_is_unavailable_and_heals(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 20)
    database = Database(f"sqlite:///{tmp_path}/apishield.db", clock)
    await database.migrate()
    holder = sqlite3.connect(f"{tmp_path}/apishield.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(ProblemError) as caught:
        async with database.transaction() as tx:
            await tx.meta.put("name", "value")
    assert caught.value.code == "database_unavailable"
    async with database.read() as tx:
        assert await tx.meta.get("name") is None
    holder.execute("ROLLBACK")
    async with database.transaction() as tx:
        await tx.meta.put("name", "value")
    holder.close()
    await database.close()


async def test_a_killed_postgresql_is_unavailable_and_heals(
    postgres_url: str, postgres_server: PostgresServer, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    database = Database(postgres_url, clock)
    await database.migrate()
    async with database.transaction() as tx:
        await tx.meta.put("name", "value")
    postgres_server.kill()
    for _ in range(2):
        with pytest.raises(ProblemError) as caught:
            async with database.transaction() as tx:
                await tx.meta.put("name", "other")
        assert caught.value.code == "database_unavailable"
        assert "Retry-After" in caught.value.headers
    with pytest.raises(ProblemError):
        await database.check()
    postgres_server.heal()
    async with database.transaction() as tx:
        assert await tx.meta.get("name") == "value"
    await database.close()
    assert "database:" in caplog.text


async def test_a_frozen_postgresql_is_said_to_be_unavailable_within_seconds(
    postgres_url: str, postgres_server: PostgresServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 0.2)
    database = Database(postgres_url, clock)
    await database.migrate()
    frozen = [postgres_server.pid, *descendants(postgres_server.pid)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        results = await asyncio.gather(*(database.check() for _ in range(20)), return_exceptions=True)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert {result.code for result in results if isinstance(result, ProblemError)} == {"database_unavailable"}
    assert not any(isinstance(result, str) for result in results)
    monkeypatch.setattr(database_module, "PATIENCE_SECONDS", 60)
    with contextlib.suppress(ProblemError):
        await database.check()  # the look that was given up may still be ending
    assert "schema" in await database.check()
    await database.close()


@contextlib.contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    processes = [server.pid, *descendants(server.pid)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("moment", ["before it", "in it", "at its commit"])
async def test_a_writer_on_a_frozen_postgresql_is_told_within_its_time_and_what_is_known_of_its_change(
    postgres_url: str,
    postgres_server: PostgresServer,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    database = Database(postgres_url, clock)
    await database.migrate()
    monkeypatch.setattr(database_module, "TRANSACTION_SECONDS", 0.5)

    async def write(freezing: contextlib.ExitStack) -> None:
        if moment == "before it":
            freezing.enter_context(frozen(postgres_server))
        async with database.transaction() as tx:
            if moment == "in it":
                freezing.enter_context(frozen(postgres_server))
            await tx.meta.put("name", "value")
            freezing.enter_context(frozen(postgres_server))

    with contextlib.ExitStack() as freezing, pytest.raises(ProblemError) as caught:
        await asyncio.wait_for(write(freezing), 20)  # far more than its time: that it ends at all is what counts
    assert caught.value.code == "database_unavailable"
    assert ("not known" in caught.value.detail) is (moment == "at its commit")
    monkeypatch.setattr(database_module, "TRANSACTION_SECONDS", 60)
    async with database.transaction() as tx:
        if moment != "at its commit":
            assert await tx.meta.get("name") is None
        await tx.meta.put("after", "it answers again")
    await database.close()


async def test_readers_of_a_frozen_postgresql_are_told_within_their_time_and_read_on_when_it_goes_on(
    postgres_url: str, postgres_server: PostgresServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres_url, clock)
    await database.migrate()  # which leaves a connection in the pool

    async def read() -> str | None:
        async with database.read() as tx:
            return await tx.meta.get("name")

    monkeypatch.setattr(database_module, "TRANSACTION_SECONDS", 0.5)
    with frozen(postgres_server):
        results = await asyncio.wait_for(asyncio.gather(*(read() for _ in range(12)), return_exceptions=True), 20)
    assert [result.code for result in results if isinstance(result, ProblemError)] == ["database_unavailable"] * 12
    monkeypatch.setattr(database_module, "TRANSACTION_SECONDS", 60)
    assert await read() is None
    await database.close()


async def test_a_postgresql_that_dies_in_the_middle_of_a_transaction_has_done_nothing(
    postgres_url: str, postgres_server: PostgresServer, clock: ManualClock
) -> None:
    database = Database(postgres_url, clock)
    await database.migrate()

    async def write_while_it_dies() -> None:
        async with database.transaction() as tx:
            await tx.meta.put("name", "value")
            postgres_server.kill()

    with pytest.raises(ProblemError) as caught:
        await write_while_it_dies()
    assert caught.value.code == "database_unavailable"
    postgres_server.heal()
    async with database.read() as tx:
        assert await tx.meta.get("name") is None
    await database.close()


async def test_a_server_that_refuses_is_unavailable_at_the_first_use(clock: ManualClock) -> None:
    database = Database("postgresql://nobody:password@127.0.0.1:1/none", clock)
    with pytest.raises(ProblemError) as caught:
        await database.migrate()
    assert caught.value.code == "database_unavailable"
    assert "password" not in caught.value.detail


async def test_the_file_of_sqlite_is_its_owners_alone(tmp_path: Path, clock: ManualClock) -> None:
    database = Database(f"sqlite:///{tmp_path}/data/apishield.db", clock)
    await database.migrate()
    assert (tmp_path / "data" / "apishield.db").stat().st_mode & 0o777 == 0o600
    await database.close()


@pytest.mark.parametrize(
    "url", ["", "mysql://localhost/x", "sqlite://", "sqlite:///:memory:", "nonsense", "postgresql://u:hidden@[::1:x"]
)
def test_a_url_that_can_not_be_used_names_the_variable_and_hides_the_password(url: str, clock: ManualClock) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        Database(url, clock)
    assert "hidden" not in str(caught.value)


async def test_the_databases_errors_show_no_parameters(database: Database) -> None:
    with pytest.raises(SQLAlchemyError) as caught:
        async with database.engine.connect() as connection:
            await connection.execute(text("SELECT :name FROM nowhere"), {"name": "hunter2"})
    assert "hunter2" not in str(caught.value)
