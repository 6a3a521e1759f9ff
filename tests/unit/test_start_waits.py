"""A start waits for a database that can't be used for the moment, and for no other."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from apishield.bootstrap import Prepared
from apishield.cli import start
from apishield.errors import APIShieldError, ConfigurationError
from apishield.settings import Settings
from apishield.stores.sql.failures import translated


def failing(monkeypatch: pytest.MonkeyPatch, says: str, times: int) -> list[int]:
    """The database says this so many times, and can be used from then on; the list has an item for each try."""
    tries: list[int] = []
    original = sqlite3.OperationalError(says)
    original.sqlite_errorname = "SQLITE_BUSY" if "locked" in says else "SQLITE_CANTOPEN"

    async def prepare(_settings: Settings) -> Prepared:
        tries.append(1)
        if len(tries) <= times:
            with translated():
                raise OperationalError("BEGIN IMMEDIATE", {}, original)
        return Prepared(None)

    monkeypatch.setattr(start, "prepare", prepare)
    monkeypatch.setattr(start, "FIRST_PAUSE_SECONDS", 0.0)
    return tries


async def test_a_sqlite_that_the_last_ledger_process_still_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = failing(monkeypatch, "database is locked", times=3)
    await start.prepare_patiently(Settings(data_dir=tmp_path))
    assert len(tries) == 4


async def test_one_that_is_held_for_longer_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "database is locked", times=10**9)
    with pytest.raises(APIShieldError, match=r"database is locked.*End whatever holds it"):
        await start.prepare_patiently(Settings(data_dir=tmp_path, startup_timeout_seconds=0))


async def test_a_sqlite_that_can_not_be_opened_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = failing(monkeypatch, "unable to open database file", times=10**9)
    with pytest.raises(ConfigurationError, match="unable to open"):
        await start.prepare_patiently(Settings(data_dir=tmp_path))
    assert len(tries) == 1
