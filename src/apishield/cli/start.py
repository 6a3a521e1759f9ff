"""What a start checks and makes before anything is served: each fault is one line that says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator

import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from apishield.bootstrap import Prepared, prepare
from apishield.errors import APIShieldError, ConfigurationError, ProblemError
from apishield.redaction import redact, redact_url
from apishield.services.secrets import Secrets
from apishield.settings import Settings
from apishield.stores.data_directory import open_private
from apishield.stores.redis.connection import parse_address
from apishield.stores.sql.engine import read_url

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 2.0
# What a database that does answer says; waiting would not change it.
_PERMANENT = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "permission denied",
    "not permitted to log in",
    "unsupported frontend protocol",
)
_LOCKED = "database is locked"

log = structlog.get_logger("apishield.start")


def check_values(settings: Settings) -> None:
    """Has the parts read their settings, without connecting. Raises ``ConfigurationError`` where one can't."""
    read_url(settings.effective_database_url)
    if settings.secret is not None:
        Secrets.parse(settings.secret)
    if settings.redis_url is not None:
        parse_address(settings.redis_url)


def bind(settings: Settings) -> socket.socket:
    """The bound socket of the service, which nobody can take between this check and the start.

    Raises ``ConfigurationError`` where the port is taken or the address is not this machine's.
    """
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigurationError(
            f"APISHIELD_HOST is '{host}', which can't be resolved ({error.strerror}). Use an address of this machine."
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigurationError(_why_not_bound(error, host, port)) from None
    listener.set_inheritable(True)
    return listener


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            other = port + 1 if port < 65_535 else 8000
            return (
                f"APISHIELD_PORT is {port}, and another program listens there. "
                f"Stop it, or choose another port: APISHIELD_PORT={other}"
            )
        case errno.EACCES | errno.EPERM:
            return f"APISHIELD_PORT is {port}, which this user may not use. Choose one from 1024 on, such as 8000."
        case errno.EADDRNOTAVAIL:
            return f"APISHIELD_HOST is '{host}', which is no address of this machine. Use 127.0.0.1 or 0.0.0.0."
        case _:
            return f"APISHIELD_HOST is '{host}' and APISHIELD_PORT {port}, which can't be used: {error.strerror}."


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Holds the data directory where two services on it would each count by themselves and admit twice the limit."""
    if not settings.sqlite or settings.redis_url is not None:
        yield
        return
    with open_private(settings.data_dir / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise ConfigurationError(
                f"APISHIELD_DATA_DIR is '{settings.data_dir}', which another apishield uses (process "
                f"{file.read().strip() or 'unknown'}); without Redis each would count by itself. Stop it, choose another "
                "directory, or set REDIS_URL."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


async def prepare_patiently(settings: Settings) -> Prepared:
    """``bootstrap.prepare``; a database that can't be reached yet is waited for, for ``startup_timeout_seconds``.

    Raises ``ConfigurationError`` for what only a person can mend, ``APIShieldError`` where the wait was in vain.
    """
    deadline = time.monotonic() + settings.startup_timeout_seconds
    pause_seconds = FIRST_PAUSE_SECONDS
    while True:
        try:
            return await prepare(settings)
        except SQLAlchemyError as error:
            raise ConfigurationError(_describe(settings, answer(error), "Mend that, or the URL.")) from None
        except ProblemError as error:
            said = answer(error.__cause__) if isinstance(error.__cause__, SQLAlchemyError) else error.detail
            if error.code == "storage_full":
                raise APIShieldError(_describe(settings, said, "Free some space and start again.")) from None
            is_locked = settings.sqlite and _LOCKED in said  # by a ledger process that outlives its node for a moment
            if (settings.sqlite and not is_locked) or any(words in said for words in _PERMANENT):
                raise ConfigurationError(_describe(settings, said, "Mend that, or the URL.")) from None
            if time.monotonic() + pause_seconds > deadline:
                fix = "End whatever holds it." if is_locked else "Start it, or mend the URL."
                waited = f"Waited {settings.startup_timeout_seconds} s. {fix}"
                raise APIShieldError(_describe(settings, said, waited)) from None
            left = round(deadline - time.monotonic())
            log.warning("the database can't be reached yet", answer=said, gives_up_in_seconds=left)
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


def _describe(settings: Settings, answer: str, fix: str) -> str:
    return f"DATABASE_URL is '{redact_url(settings.effective_database_url)}', which can't be used: {answer}. {fix}"


def answer(error: BaseException) -> str:
    """What a driver said, on one line. libpq writes a line for each address it tried; the last says most."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = [line.strip(" \t-") for line in str(original).splitlines()]
    lines = [line for line in said if line and not line.endswith("?")]  # libpq's advice is ours to give
    return redact(lines[-1] if lines else type(original).__name__).rstrip(".")
