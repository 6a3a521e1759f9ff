"""Server processes that end with the test run, however it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

START_TIMEOUT_SECONDS = 60.0  # a loaded machine with two cores, seldom more than one second

# Reads "<signal> <pid>", "forget <pid>" and "remove <directory>"; once the test run is gone, ends and removes all that
# is left. It is a process of its own so that it works after kill -9 of the test run, too.
_REAPER = """
import contextlib, os, shutil, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
processes, directories = {}, []
for line in sys.stdin:
    what, value = line.rstrip("\\n").split(" ", 1)
    if what == "remove":
        directories.append(value)
    elif what == "forget":
        processes.pop(int(value), None)
    else:
        processes[int(value)] = int(what)
for number in (*set(processes.values()), signal.SIGKILL):
    for pid, preferred in processes.items():
        if number in (preferred, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)
                os.killpg(pid, signal.SIGCONT)
    deadline = time.monotonic() + 2
    while processes and time.monotonic() < deadline:
        for pid in list(processes):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                del processes[pid]
        time.sleep(0.02)
for directory in directories:
    shutil.rmtree(directory, ignore_errors=True)
"""


class Reaper:
    """Ends processes and removes directories once this process is gone."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _REAPER], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def watch(self, pid: int, with_signal: signal.Signals = signal.SIGKILL) -> None:
        self._say(f"{with_signal.value} {pid}")

    def forget(self, pid: int) -> None:
        self._say(f"forget {pid}")

    def make_directory(self, user: str | int | None = None) -> Path:
        path = Path(tempfile.mkdtemp(prefix="apishield-test-"))
        self._say(f"remove {path}")
        if user is not None:
            shutil.chown(path, user)
        return path

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(START_TIMEOUT_SECONDS)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


class ServerProcess:
    """A server on a port of its own that a test can kill, freeze and start again."""

    stop_signal = signal.SIGTERM

    def __init__(
        self,
        reaper: Reaper,
        command: Sequence[str],
        ready: Callable[[], bool],
        *,
        directory: Path,
        user: str | int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log_path = directory / "server.log"
        self._reaper, self._command, self._ready = reaper, list(command), ready
        self._directory, self._user, self._environment = directory, user, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        with self.log_path.open("ab") as log:
            self._process = self._spawn(log)
        self._reaper.watch(self.pid, self.stop_signal)
        wait_until(self._answers, f"{self._command[0]} to answer", lambda: self.log)

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL), with whatever workers it has."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """Asks it to stop and returns its exit code."""
        return self._end(self.stop_signal)

    def stop(self) -> None:
        """Freezes it (SIGSTOP): connections stay open, nothing answers."""
        self._frozen = [self.pid, *descendants(self.pid)]
        for pid in self._frozen:
            os.kill(pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Lets it go on after ``stop``."""
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._frozen = []

    def restart(self) -> None:
        """Starts it again on the same port, ending it first where it still runs."""
        self.terminate()
        self.start()

    def heal(self) -> None:
        """Undoes what a test did: thaws it, or starts it where it is down."""
        self.cont()
        if not self.running:
            self.start()

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            cwd=self._directory,
            env=None if self._environment is None else dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=self._user,
            group=None if self._user is None else _group_of(self._user),
            extra_groups=None if self._user is None else [],
            start_new_session=True,  # so that Ctrl-C ends the tests first, and they end the server
        )

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self._command[0]} ended at its start:\n{self.log[-4000:]}")
        return self._ready()

    def _end(self, with_signal: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
            self.cont()
        try:
            code = self._process.wait(START_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        self._reaper.forget(self._process.pid)
        return code


def wait_until(
    condition: Callable[[], bool],
    what: str,
    explain: Callable[[], str] = str,
    timeout_seconds: float = START_TIMEOUT_SECONDS,
) -> None:
    """Polls until ``condition`` holds; for processes and networks, whose clock a test can't own."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_seconds:g} s for {what}\n{explain()[-4000:]}")
        time.sleep(0.01)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def descendants(pid: int) -> list[int]:
    """The processes below ``pid`` (Linux; elsewhere none are found)."""
    children: list[str] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():  # a child is its thread's
            children += (thread / "children").read_text().split()
    return [found for child in children for found in (int(child), *descendants(int(child)))]


def alive(pid: int) -> bool:
    """Whether a process with this id runs; one that ended and that nobody waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _group_of(user: str | int) -> int:
    import pwd

    return (pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)).pw_gid
