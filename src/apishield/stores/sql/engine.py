"""Engines: plain URLs in, SQLAlchemy's asyncio engines out, set so that what is acknowledged is on disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from apishield.errors import ConfigurationError
from apishield.stores.sql.ledger import latency

VARIABLE = "DATABASE_URL"
BUSY_TIMEOUT_MS = 5_000

_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite+aiosqlite"}
_POSTGRESQL_SETTINGS = {
    "application_name": "apishield",
    "connect_timeout": 5,
    # A statement or lock that takes longer than this won't be waited for by the one who asked. And none is worth to be
    # compiled, or to start processes for: the planner thinks so of some, which costs hundreds of milliseconds on busy cores.
    "options": "-c statement_timeout=15000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=30000"
    " -c jit=off -c parallel_setup_cost=1000000",
    # A peer that vanished without a word is noticed.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
WRITES = "apishield_writes"
"""The execution option of a connection that will write."""


def read_url(text: str) -> URL:
    """A URL as operators write it, with the driver filled in. Raises ``ConfigurationError`` without its password."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        message = f"{VARIABLE} is not a URL like postgresql://user:password@host:5432/apishield or sqlite:///path"
        raise ConfigurationError(message) from None
    dialect = url.drivername.partition("+")[0]
    if dialect not in _DRIVERS:
        message = f"{VARIABLE} begins with {url.drivername!a}; use postgresql://… or sqlite:///path"
        raise ConfigurationError(message)
    if dialect == "sqlite" and url.database in {None, "", ":memory:"}:
        message = f"{VARIABLE} names no file; write sqlite:///path/apishield.db (four slashes for an absolute path)"
        raise ConfigurationError(message)
    return url.set(drivername=_DRIVERS[dialect])


def make_engine(url: URL) -> AsyncEngine:
    """An engine that connects at first use. Its errors show no parameters: names, addresses, digests."""
    if url.get_backend_name() == "postgresql":
        settings = {name: value for name, value in _POSTGRESQL_SETTINGS.items() if name not in url.query}
        return create_async_engine(
            url,
            pool_size=5,
            max_overflow=5,
            pool_timeout=10,
            pool_pre_ping=True,
            connect_args=settings,
            hide_parameters=True,
        )
    engine = create_async_engine(url, async_creator=_sqlite_creator(url), pool_timeout=10, hide_parameters=True)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def prepare_file(url: URL) -> None:
    """Makes SQLite's file, readable by its owner only, where there is none."""
    if url.get_backend_name() == "sqlite" and url.database is not None:
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)


class _SQLiteConnection(aiosqlite.Connection):
    """A connection that ends once.

    Whoever works for a caller that hung up is cancelled at each turn of the loop, so also while the connection is closed after
    the first time; SQLAlchemy then ends it at once. The driver's thread goes away at that, and the closing, which still goes
    on, would ask for one more end and wait for it for ever.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._thread.daemon = True  # as SQLAlchemy sets it: a connection that nobody closed keeps no process alive
        self._ended: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        """Ends the thread, once it has done what it was asked for."""
        if self._ended is None:
            self._ended = super().stop()
        return self._ended


def _sqlite_creator(url: URL) -> Callable[[], Awaitable[aiosqlite.Connection]]:
    (file, *_), options = url.get_dialect()().create_connect_args(url)

    async def connect() -> aiosqlite.Connection:
        return await _SQLiteConnection(lambda: sqlite3.connect(file, **options))

    return connect


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver begins no transactions by itself; _begin_sqlite does, so that DDL and reads are in them too.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    connection.create_function(latency.SQLITE_FUNCTION, 2, latency.added, deterministic=True)


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: upgrading a read lock later could fail, and would not wait.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
