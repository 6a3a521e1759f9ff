"""The ledger's process is started again when it dies, and it is noted for as long as that goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from apishield.cli import ledger_process
from apishield.cli.ledger_process import LedgerProcess
from apishield.settings import Settings
from apishield.stores.ledger_deaths import LedgerDeaths, note_deaths, read_deaths
from tests.support.processes import wait_until

DIES = (sys.executable, "-c", "raise SystemExit(3)")
RUNS = (sys.executable, "-c", "import sys; sys.stdin.read()")  # until the service is gone


def times(data_dir: Path) -> int:
    deaths = read_deaths(data_dir)
    return 0 if deaths is None else deaths.times


def test_deaths_in_a_row_are_counted_until_it_runs_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_process, "COMMAND", DIES)
    monkeypatch.setattr(ledger_process, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(ledger_process, "LONGEST_PAUSE_SECONDS", 0.01)
    note_deaths(tmp_path, LedgerDeaths(99, 1))  # of a start before this one
    with LedgerProcess(Settings(data_dir=tmp_path)) as process:
        process.start()
        wait_until(lambda: 2 <= times(tmp_path) < 99, "it died twice")
        assert read_deaths(tmp_path) == LedgerDeaths(times(tmp_path), 3)
        monkeypatch.setattr(ledger_process, "_FINE_AFTER_SECONDS", 1.0)
        monkeypatch.setattr(ledger_process, "COMMAND", RUNS)
        wait_until(lambda: times(tmp_path) == 0, "it is well again")


def test_a_service_that_ends_leaves_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_process, "COMMAND", DIES)
    with LedgerProcess(Settings(data_dir=tmp_path)) as process:
        process.start()
        wait_until(lambda: times(tmp_path) > 0, "it died")
    assert times(tmp_path) == 0
