"""Real Redis and PostgreSQL for the tests: throwaway servers on free ports, without persistence.

Binaries are taken from the PATH and from where Debian puts them. Missing ones are installed on Debian as root. Else the
tests use ``REDIS_URL`` and ``DATABASE_URL`` of the environment. Else a test that needs one fails where ``CI`` is set,
and is skipped on a laptop, with the reason in the summary.

Under pytest-xdist each worker has servers of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis

from tests.support.processes import Reaper, ServerProcess, alive, descendants, free_port, wait_until

# What was given from outside; the tests' own settings never see it (see conftest).
GIVEN_REDIS_URL = os.environ.get("REDIS_URL")
GIVEN_DATABASE_URL = os.environ.get("DATABASE_URL")
Server = TypeVar("Server", bound=ServerProcess)
START_ATTEMPTS = 3  # between finding a free port and taking it, another process may take it


class RedisServer(ServerProcess):
    """A Redis without persistence."""

    def __init__(self, reaper: Reaper, binary: str, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--maxmemory-policy", "noeviction", "--loglevel", "warning", *arguments]
        super().__init__(reaper, command, self._ready, directory=reaper.make_directory())

    def client(self) -> redis.Redis:
        """A synchronous client, for what a test does beside the code under test."""
        return redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=5)

    def _ready(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False


class PostgresServer(ServerProcess):
    """A PostgreSQL that never syncs to disk."""

    stop_signal = signal.SIGINT  # a fast shutdown: connections are cut

    def __init__(self, reaper: Reaper, binaries: Path) -> None:
        self.port = free_port()
        self.admin_url = self.url_of("postgres")
        user = _unprivileged_user() if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        directory = reaper.make_directory(user)
        data = directory / "data"
        initdb = [
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-U",
            "apishield",
            "-E",
            "UTF8",
            "--locale=C",
            "--auth=trust",
            "-N",
        ]
        subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=directory)
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        # Commits stay synchronous: what was acknowledged must outlive the kills of the tests.
        for option in ("fsync=off", "full_page_writes=off", "shared_buffers=64MB"):
            command += ["-c", option]
        command += ["-c", "max_connections=200", "-c", "autovacuum=off"]
        super().__init__(reaper, command, self._ready, directory=directory, user=user)

    def url_of(self, database: str) -> str:
        """The URL of one database, as an operator would write it."""
        return f"postgresql://apishield:apishield@127.0.0.1:{self.port}/{database}"

    def kill(self) -> None:
        """Ends it as a crash would, and its backends, whose shared memory would keep it from starting again."""
        backends = descendants(self.pid)
        super().kill()
        wait_until(lambda: not any(map(alive, backends)), "the backends of a killed PostgreSQL to end")

    def _ready(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.admin_url, connect_timeout=5):
            return True
        return False


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Ends the servers with the test run, also after Ctrl-C or kill -9."""
    reaper = Reaper()
    yield reaper
    reaper.close()


@pytest.fixture(scope="session")
def redis_server(reaper: Reaper) -> Iterator[RedisServer]:
    """A Redis that a test may kill, freeze and restart; ``redis_url`` heals it before the next test."""
    binary = _find("redis-server", package="redis-server")
    if binary is None:
        _missing("redis-server is not installed (Debian: apt-get install redis-server; macOS: brew install redis)")
    server = _start(lambda: RedisServer(reaper, str(binary)))
    yield server
    server.kill()


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty Redis database."""
    if GIVEN_REDIS_URL is not None and _find("redis-server", package=None) is None:
        return _emptied_database(GIVEN_REDIS_URL)
    server: RedisServer = request.getfixturevalue("redis_server")
    server.heal()
    with server.client() as client:
        client.flushall()
        client.script_flush()
    return server.url


@pytest.fixture(scope="session")
def postgres_server(reaper: Reaper) -> Iterator[PostgresServer]:
    """A PostgreSQL that a test may kill, freeze and restart; ``postgres_url`` heals it before the next test."""
    initdb = _find("initdb", package="postgresql")
    if initdb is None:
        _missing("PostgreSQL is not installed (Debian: apt-get install postgresql; macOS: brew install postgresql@17)")
    server = _start(lambda: PostgresServer(reaper, initdb.parent))
    yield server
    server.terminate()


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database."""
    if GIVEN_DATABASE_URL is not None and _find("initdb", package=None) is None:
        admin_url = GIVEN_DATABASE_URL
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        server.heal()
        admin_url = server.admin_url
    name = f"apishield_test_{uuid.uuid4().hex}"
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 STRATEGY file_copy')
    yield urlunsplit(urlsplit(admin_url)._replace(path=f"/{name}"))
    if admin_url is not GIVEN_DATABASE_URL:
        request.getfixturevalue("postgres_server").heal()
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _start(make: Callable[[], Server]) -> Server:
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            return make()
        except RuntimeError:
            if attempt == START_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _find(binary: str, *, package: str | None) -> Path | None:
    """The binary, from the PATH or Debian's directories of PostgreSQL; installed first where that is possible."""
    newest_first = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True
    )
    directories = [*map(str, newest_first), os.environ.get("PATH", os.defpath), "/usr/sbin"]
    found = shutil.which(binary, path=os.pathsep.join(directories))
    if found is None and package is not None and _may_install():
        _install(package)
        return _find(binary, package=None)
    return None if found is None else Path(found)


def find_nginx() -> Path:
    """The binary of Nginx; see ``find_tool``."""
    return find_tool("nginx", package="nginx-light")


def find_tool(binary: str, *, package: str) -> Path:
    """A binary, installed where that is possible. Without it the test fails in CI, and is skipped elsewhere."""
    found = _find(binary, package=package)
    if found is None:
        reason = f"{binary} is not installed; install it: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def _may_install() -> bool:
    return os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None


def _install(package: str) -> None:
    """Installs a Debian package; one process at a time, since each xdist worker may want it."""
    apt_get = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with (Path(tempfile.gettempdir()) / "apishield-test-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(f"\n{package} is missing: installing it with apt-get", flush=True)  # noqa: T201  said to who runs the tests
        subprocess.run([*apt_get, "update"], check=False, env=environment)
        subprocess.run([*apt_get, "install", "-y", "--no-install-recommends", package], check=False, env=environment)


def _missing(what: str) -> NoReturn:
    reason = f"{what}, and no URL of a running one is set (REDIS_URL, DATABASE_URL)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _unprivileged_user() -> str:
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _emptied_database(url: str) -> str:
    """A database of a Redis that is not ours: each xdist worker takes another, and refuses one that holds data."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = urlunsplit(urlsplit(url)._replace(path=f"/{15 - worker}"))
    with redis.Redis.from_url(own) as client:
        if own not in _OURS and client.dbsize():
            pytest.fail(f"database {15 - worker} of REDIS_URL holds data, and the tests would empty it")
        _OURS.add(own)
        client.flushdb()
    return own


_OURS: set[str] = set()
