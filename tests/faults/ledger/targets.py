"""The pipelines under test, as operators run them: real processes, each of which can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from sqlalchemy import text

from apishield.bootstrap import SPOOL_DIRECTORY, load_secrets, open_database
from apishield.clock import system_clock
from apishield.settings import Settings
from apishield.stores.spool import SpoolReader
from apishield.stores.spool.files import spool_name, spools_in
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.positions import Positions
from tests.faults.ledger.schedule import Fault
from tests.support.processes import Reaper, alive, descendants, wait_until
from tests.support.service import Service

FAST: Mapping[str, str] = {"APISHIELD_SIGNUP_LIMIT": "100000/hour", "APISHIELD_LOG_LEVEL": "warning"}


class Target(Protocol):
    """A pipeline that runs."""

    faults: Mapping[Fault, int]

    def urls(self) -> list[str]:
        """Whom to ask."""
        ...

    def inflict(self, fault: Fault, victim: int) -> None:
        """Does it, and undoes it: afterwards all that was killed was started again."""
        ...

    def database(self) -> Database:
        """Its database, to be closed by the caller."""
        ...

    async def is_drained(self, database: Database, tenant_id: str) -> bool:
        """Whether the ledger holds all that was written down."""
        ...

    def logs(self) -> str:
        """What the processes said."""
        ...

    def close(self) -> None:
        """Ends all of it."""
        ...


class Node:
    """A node and its ledger process."""

    def __init__(self, reaper: Reaper, directory: Path, environment: Mapping[str, str]) -> None:
        directory.mkdir()
        self.service = Service(reaper, directory, {**FAST, **environment})
        self._reaper = reaper
        self._ledgers: set[int] = set()

    @property
    def spools(self) -> Path:
        """Where its processes write events down."""
        return self.service.data_dir / SPOOL_DIRECTORY

    def inflict(self, fault: Fault) -> None:
        """Does it, and starts again what was killed."""
        ledger = self._ledger()
        match fault:
            case Fault.NODE:
                self.service.kill()
            case Fault.NODE_AND_LEDGER:
                self.service.kill()
                _signal(ledger, signal.SIGKILL)
            case Fault.LEDGER:
                _signal(ledger, signal.SIGKILL)
            case Fault.FROZEN_LEDGER:
                _signal(ledger, signal.SIGSTOP)
                self.service.kill()
            case Fault.RESTART:
                self.service.terminate()
            case _:
                raise ValueError(fault)
        if self.service.running:
            return
        if fault is Fault.FROZEN_LEDGER:
            self._start_beside(ledger)
        else:
            self.service.start()

    def close(self) -> None:
        """Ends both, as a crash would."""
        self._ledger()
        self.service.kill()
        for pid in self._ledgers:
            _signal(pid, signal.SIGCONT)
            _signal(pid, signal.SIGKILL)

    def _start_beside(self, frozen: int | None) -> None:
        """Starts the node, and thaws its last ledger process once it is up, or waits for the database that that one holds."""
        known = len(self.service.log)
        with ThreadPoolExecutor(1) as thread:
            starting = thread.submit(self.service.start)
            try:
                wait_until(
                    lambda: starting.done() or "can't be reached yet" in self.service.log[known:], "the node to start"
                )
            finally:
                _signal(frozen, signal.SIGCONT)
            starting.result()

    def _ledger(self) -> int | None:
        """Its ledger process; none where it is just being started anew."""
        for pid in descendants(self.service.pid):
            if "worker\0--child" in _command(pid):
                self._ledgers.add(pid)
                self._reaper.watch(pid, signal.SIGKILL)
                return pid
        return None


class SqliteTarget:
    """One node that takes its events into its own SQLite."""

    faults: Mapping[Fault, int] = {
        Fault.NODE: 5,
        Fault.NODE_AND_LEDGER: 5,
        Fault.LEDGER: 6,
        Fault.FROZEN_LEDGER: 2,
        Fault.RESTART: 1,
    }

    def __init__(self, reaper: Reaper, directory: Path) -> None:
        self._node = Node(reaper, directory / "node", {})
        self._settings = Settings(data_dir=self._node.service.data_dir)

    def urls(self) -> list[str]:
        return [self._node.service.url]

    def inflict(self, fault: Fault, victim: int) -> None:
        self._node.inflict(fault)

    def database(self) -> Database:
        return open_database(self._settings, load_secrets(self._settings), system_clock)

    async def is_drained(self, database: Database, tenant_id: str) -> bool:
        positions = await taken(database)
        root = self._node.spools
        return not await results_waiting(database, tenant_id) and all(
            is_read(root, spool, positions.get(f"spool:{spool_name(spool)}", 0)) for spool in spools_in(root)
        )

    def logs(self) -> str:
        return told(self._node.service.log)

    def close(self) -> None:
        self._node.close()


async def taken(database: Database) -> dict[str, int]:
    """Up to where the ledger has taken each stream."""
    async with database.read() as work:
        return {stream: position for stream, position, _ in await Positions(work.connection).all()}


async def results_waiting(database: Database, tenant_id: str) -> bool:
    """Whether results wait for their decisions, which came later. The ledger looks for them again from time to time."""
    async with database.read() as work:
        statement = text("SELECT count(*) FROM ledger_pending WHERE tenant_id = :tenant")
        return bool(await work.connection.scalar(statement, {"tenant": tenant_id}))


def is_read(spools: Path, spool: int, position: int) -> bool:
    """Whether a spool holds nothing behind ``position``."""
    with contextlib.suppress(FileNotFoundError):  # it was taken, and removed
        reader = SpoolReader(spools, spool)
        try:
            return not reader.read(position)[0].frames
        finally:
            reader.close()
    return True


def told(log: str) -> str:
    """What a process has to say, without its banner."""
    return "\n".join(
        [line for line in log.splitlines() if line.startswith(("{", "Traceback", "    ", "apishield"))][-25:]
    )


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if number is signal.SIGKILL:
            wait_until(lambda: not alive(pid), "a killed process to be gone")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
