"""What a database's failure means to whoever asked. Nothing that failed was acknowledged."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from apishield.errors import ProblemError

_log = logging.getLogger(__name__)

# SQLSTATE classes: 08 connection, 53 out of resources, 55 lock not available, 57 operator intervention (shutdown, time-out),
# 58 system error, 25006 read-only transaction (a standby), 40 rolled back for another's sake.
_UNAVAILABLE_CLASSES = ("08", "53", "55", "57", "58", "40")
_UNAVAILABLE_STATES = ("25006",)
_UNIQUE_VIOLATION = "23505"
_DISK_FULL = "53100"
# 22 values that are none of their type, 23 constraints, 54 more than fits, as into an entry of an index.
_REFUSED_CLASSES = ("22", "23", "54")

_UNAVAILABLE_SQLITE = ("BUSY", "LOCKED", "READONLY", "IOERR", "CANTOPEN", "CORRUPT", "NOTADB", "PROTOCOL", "PERM")


@contextmanager
def translated() -> Iterator[None]:
    """Turns failures of the database into problems: ``storage_full``, ``database_unavailable``, ``conflict``.

    What is left, such as a violated constraint that the services should have seen, is a fault of ours and passes through.
    """
    try:
        yield
    except PoolTimeoutError as error:
        _log.warning("database: no connection was free: %s", error)
        raise unavailable() from error
    except SQLAlchemyError as error:
        problem = problem_of(error)
        if problem is None:
            raise
        _log.warning("database: %s", _first_line(error))
        raise problem from error


@contextmanager
def in_doubt() -> Iterator[None]:
    """As ``translated``, around what may have taken effect even though its answer never came: the problem says so."""
    try:
        with translated():
            yield
    except ProblemError as problem:
        if problem.code != "database_unavailable":
            raise
        message = (
            "The database did not acknowledge the change, so it is not known whether it was made. "
            "Look at it before you try again."
        )
        raise ProblemError(problem.code, message, headers=problem.headers) from problem


def problem_of(error: SQLAlchemyError) -> ProblemError | None:
    """The problem that a failure is; ``None`` where the fault is ours."""
    if not isinstance(error, DBAPIError):
        return None
    original = error.orig
    if isinstance(original, sqlite3.Error):
        return _problem_of_sqlite(error, original)
    state = getattr(original, "sqlstate", None)
    if state == _DISK_FULL:
        return _storage_full()
    if state == _UNIQUE_VIOLATION:
        return _conflict()
    if error.connection_invalidated or (state is None and not isinstance(error, IntegrityError | DataError)):
        return unavailable()  # the connection was refused or lost: there is no answer that could carry a state
    if state is not None and (state.startswith(_UNAVAILABLE_CLASSES) or state in _UNAVAILABLE_STATES):
        return unavailable()
    return None


class Blame(Enum):
    """What has to change before a transaction that failed could go."""

    DATABASE = auto()  # connections, locks, time-outs, room on the disk: it goes when they are well again
    INPUT = auto()  # what was to be written: it would fail again
    UNKNOWN = auto()  # one of them; whether others fail as well tells


def blame_of(error: Exception) -> Blame:
    """Which of them made a transaction fail."""
    if isinstance(error, ProblemError):
        return Blame.UNKNOWN if error.code == "conflict" else Blame.DATABASE
    if isinstance(error, SQLAlchemyError):
        state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
        if isinstance(error, DataError | IntegrityError) or (state or "").startswith(_REFUSED_CLASSES):
            return Blame.INPUT
        return Blame.UNKNOWN if problem_of(error) is None else Blame.DATABASE
    if isinstance(error, OSError):
        return Blame.DATABASE
    return Blame.UNKNOWN if isinstance(error, MemoryError) else Blame.INPUT


def was_undone_for_another(problem: ProblemError) -> bool:
    """Whether a transaction was undone only because it and another waited for each other: it may be tried again at once."""
    cause = problem.__cause__
    state = getattr(cause.orig, "sqlstate", None) if isinstance(cause, DBAPIError) else None
    return state is not None and state.startswith("40")


def _problem_of_sqlite(error: DBAPIError, original: sqlite3.Error) -> ProblemError | None:
    name = (getattr(original, "sqlite_errorname", None) or "").removeprefix("SQLITE_")
    if name == "FULL":
        return _storage_full()
    if name in {"CONSTRAINT_UNIQUE", "CONSTRAINT_PRIMARYKEY"}:
        return _conflict()
    if name.startswith(_UNAVAILABLE_SQLITE) or error.connection_invalidated:
        return unavailable()
    return None


def _storage_full() -> ProblemError:
    return ProblemError(
        "storage_full", "The database's disk is full; nothing was changed. Free some space and try again."
    )


def unavailable() -> ProblemError:
    """The refusal while the database can't be reached."""
    return ProblemError(
        "database_unavailable",
        "The database can't be reached or can't be written now; nothing was changed. Try again in a moment.",
        headers={"Retry-After": "2"},
    )


def _conflict() -> ProblemError:
    return ProblemError("conflict", "Another request made the same thing at the same moment. Look at it and try again.")


def _first_line(error: SQLAlchemyError) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    return (str(original).splitlines() or [type(original).__name__])[0]
