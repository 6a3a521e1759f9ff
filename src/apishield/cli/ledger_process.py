"""The process that takes a node's events into the ledger: started, watched and stopped by ``serve``.

A process of its own, because decoding and summing would make checks wait, and because it may fail without taking them along.
A plain subprocess, and not ``multiprocessing``: it has a name in ``ps``, shares nothing with the service, is the same program
as ``apishield worker``, and learns by the end of its standard input that the service is gone, be it by kill -9.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self

import structlog

from apishield.settings import Settings
from apishield.stores.ledger_deaths import LedgerDeaths, forget_deaths, note_deaths

log = structlog.get_logger("apishield.worker")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
_FINE_AFTER_SECONDS = 60.0
_MARGIN_SECONDS = 5.0  # for what is not drained in time to be let go of
COMMAND = (sys.executable, "-m", "apishield.cli", "worker", "--child")


class LedgerProcess:
    """Runs beside the service from ``start`` to the end of the block; is started again, more and more slowly, when it dies."""

    def __init__(self, settings: Settings) -> None:
        self._wanted = settings.ledger == "worker"
        self._data_dir = settings.data_dir
        self._longest_stop_seconds = settings.shutdown_timeout_seconds + _MARGIN_SECONDS
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def start(self) -> None:
        """Starts it, where this node has one."""
        forget_deaths(self._data_dir)  # of an earlier start, which may have been killed
        if self._wanted and self._watch is None:
            self._watch = threading.Thread(target=self._keep_running, name="ledger-process", daemon=True)
            self._watch.start()

    def _keep_running(self) -> None:
        pause_seconds, deaths = FIRST_PAUSE_SECONDS, 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = self._run(died_before=deaths > 0)
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _FINE_AFTER_SECONDS:
                pause_seconds, deaths = FIRST_PAUSE_SECONDS, 0
            deaths += 1
            note_deaths(self._data_dir, LedgerDeaths(deaths, code))
            log.error("worker.died", exit_code=code, starts_again_in_seconds=pause_seconds, events="wait in the spool")
            self._stopping.wait(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    def _run(self, *, died_before: bool) -> int | None:
        """Starts the process and waits for its end; its exit code, or ``None`` where it can't be started."""
        try:
            # A session of its own: Ctrl-C on the terminal means the service, which goes first.
            self._process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603  ourselves
        except OSError as error:
            log.error("worker.not_started", error=str(error))
            return None
        if self._stopping.is_set():  # in this very moment
            self._close_input(self._process)
        if died_before:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(_FINE_AFTER_SECONDS)
            forget_deaths(self._data_dir)
        return self._process.wait()

    def _stop(self) -> None:
        """Has it take what the service has left, and waits for its end; not for ever."""
        self._stopping.set()
        process = self._process
        if process is not None:
            self._close_input(process)
            try:
                process.wait(self._longest_stop_seconds)
            except subprocess.TimeoutExpired:
                log.error("worker.killed", reason=f"it did not end within {self._longest_stop_seconds} s")
                process.kill()
        if self._watch is not None:
            self._watch.join(self._longest_stop_seconds)
        forget_deaths(self._data_dir)

    @staticmethod
    def _close_input(process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
