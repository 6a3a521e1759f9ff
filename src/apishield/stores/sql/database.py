"""The database: SQLite in a file, or PostgreSQL. Opens transactions; knows what must hold before and after a commit."""

from __future__ import annotations

import asyncio
import logging
import secrets as system_random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from inspect import isawaitable
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.core.audit_chain import ChainKey
from apishield.core.ports import Clock, QuotaUse
from apishield.errors import ConfigurationError
from apishield.stores.sql import feed, migrate
from apishield.stores.sql.engine import WRITES, make_engine, prepare_file, read_url
from apishield.stores.sql.failures import in_doubt, translated, unavailable
from apishield.stores.sql.patience import connected
from apishield.stores.sql.unit_of_work import UnitOfWork

PATIENCE_SECONDS = 3
TRANSACTION_SECONDS = 8
"""How long a transaction on PostgreSQL may take, and a reader waits for a connection: more than ``lock_timeout``."""

OnCommit = Callable[[int], Awaitable[None] | None]

_log = logging.getLogger(__name__)
_ONE_MOMENT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


class Database:
    """A database at a plain URL (``postgresql://…``, ``sqlite:///path``); connects at first use.

    ``audit_key`` signs the audit log; whoever only reads, or only migrates, may leave it away.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        audit_key: ChainKey | None = None,
        entropy: Callable[[int], bytes] = system_random.token_bytes,
    ) -> None:
        self.url = read_url(url)
        self.clock = clock
        self.engine = make_engine(self.url)
        self.feed = feed.ChangeFeed(self._view)
        self.quotas = QuotaRows(self)
        self._audit_key = audit_key or ChainKey(0, b"")
        self._entropy = entropy
        self._on_commit: list[OnCommit] = []
        self._look: asyncio.Task[str] | None = None
        # SQLite has one writer: waiting here is fair and wakes at once, where its busy time-out polls.
        self._one_writer = asyncio.Lock() if self.is_sqlite else None

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, so one machine and one writer."""
        return self.url.get_backend_name() == "sqlite"

    def on_commit(self, callback: OnCommit) -> None:
        """Calls ``callback`` with the last change number of each transaction that announced changes, after its commit."""
        self._on_commit.append(callback)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that writes. Leaving the block commits; an exception undoes all of it.

        Raises 503 ``database_unavailable``, within 8 seconds where PostgreSQL is silent, and 507 ``storage_full``. Nothing
        was changed then, unless the answer to the commit itself is what is missing; the problem says so.
        """
        sequence: int | None = None
        with translated():
            async with self._one_writer or nullcontext(), self._connected(to_the_end=True) as connection:
                await connection.execution_options(**{WRITES: True})
                async with connection.begin() as transaction:
                    work = self._work(connection)
                    yield work
                    if work.changes:
                        sequence = await feed.append(connection, work.changes, now_us=work.now_us)
                    with in_doubt():
                        await transaction.commit()
        for callback in work.callbacks:
            await _run(callback)
        if sequence is not None:
            for on_commit in self._on_commit:
                await _run(on_commit, sequence)

    def _connected(self, *, to_the_end: bool) -> AbstractAsyncContextManager[AsyncConnection]:
        if self.is_sqlite:
            return self.engine.connect()
        return connected(self.engine, seconds=TRANSACTION_SECONDS, to_the_end=to_the_end)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[UnitOfWork]:
        """A view of one moment. What is written in it is refused (PostgreSQL) or undone (SQLite)."""
        async with self._view() as connection:
            yield self._work(connection)

    @asynccontextmanager
    async def _view(self) -> AsyncIterator[AsyncConnection]:
        with translated():
            # Only the way in has a deadline: all rows of a large database, or a long audit log, take their time.
            async with self._connected(to_the_end=False) as connection:
                if not self.is_sqlite:
                    await connection.execution_options(**_ONE_MOMENT)
                async with connection.begin() as transaction:
                    yield connection
                    await transaction.rollback()

    def _work(self, connection: AsyncConnection) -> UnitOfWork:
        return UnitOfWork(connection, now_us=self.clock(), entropy=self._entropy, audit_key=self._audit_key)

    async def migrate(self) -> None:
        """Brings the schema up to date; nodes that start together wait for one another. Makes SQLite's file if needed."""
        try:
            prepare_file(self.url)
        except OSError as error:
            message = f"the database's file {self.url.database} can't be made: {error.strerror}"
            raise ConfigurationError(message) from error
        with translated():
            async with self.engine.connect() as connection:
                await connection.execution_options(**{WRITES: True})
                async with connection.begin():
                    await connection.run_sync(migrate.upgrade)

    async def check(self) -> str:
        """What this database is, in words, for ``doctor`` and readiness.

        Raises ``ProblemError`` where it can't be reached or is silent for 3 seconds, ``ConfigurationError`` where its
        schema is not this version's. Those who ask while one look is under way wait for that one.
        """
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._describe())
        look = self._look
        await asyncio.wait({look}, timeout=PATIENCE_SECONDS)
        if not look.done():
            look.cancel()  # and not waited for: a frozen server holds on to its connection long after
        if not look.done() or look.cancelled():
            raise unavailable()
        return look.result()

    async def _describe(self) -> str:
        async with self._view() as connection:
            statement = "SELECT sqlite_version()" if self.is_sqlite else "SHOW server_version"
            version = await connection.scalar(text(statement))
            found, wanted = await connection.run_sync(migrate.revisions)
        if found != wanted:
            message = f"the database's schema is at {found or 'nothing'}, this version needs {wanted}: migrate it"
            raise ConfigurationError(message)
        return f"{'SQLite' if self.is_sqlite else 'PostgreSQL'} {version}, schema {found}"

    async def close(self) -> None:
        """Lets go of all connections."""
        await self.engine.dispose()


class QuotaRows:
    """The durable use of quotas: the reading half of ``core.ports.QuotaLedger``, and the batch that is written behind."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, counter_keys: Sequence[str], period_start_us: int) -> dict[str, int]:
        """Units used in the period that began at ``period_start_us``, by counter key; absent means none."""
        async with self._database.read() as work:
            return await work.usage.quotas(counter_keys, period_start_us)

    async def write(self, rows: Iterable[QuotaUse]) -> None:
        """Writes the latest known use; an older word never overwrites a newer one."""
        async with self._database.transaction() as work:
            await work.usage.write_quotas(rows)


async def _run(callback: Callable[..., Awaitable[None] | None], *arguments: Any) -> None:
    """Runs what waited for a commit. The commit stands, so a failure here is logged and changes no answer."""
    try:
        result = callback(*arguments)
        if isawaitable(result):
            await result
    except Exception:  # noqa: BLE001  whatever it is, the answer is the commit
        _log.exception("after a commit, %r failed", callback)
