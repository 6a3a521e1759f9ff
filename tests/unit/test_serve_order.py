"""What ``apishield serve`` starts when."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from sqlalchemy import Connection

from apishield import telemetry
from apishield.cli import server
from apishield.cli.ledger_process import LedgerProcess
from apishield.cli.serve import serve
from apishield.stores.sql import migrate


def test_the_ledgers_process_starts_on_a_migrated_database_and_before_the_first_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise figures would lag behind the answers for as long as a process takes to start."""
    steps: list[str] = []
    really_migrate = migrate.upgrade

    def upgrade(connection: Connection) -> None:
        really_migrate(connection)
        steps.append("migrated")

    def answer(*_: object) -> int:
        steps.append("service")
        return 0

    monkeypatch.setenv("APISHIELD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("APISHIELD_PORT", "0")
    monkeypatch.setattr(telemetry, "configure_logging", lambda *_: None)  # which is the whole process'
    monkeypatch.setattr(migrate, "upgrade", upgrade)
    monkeypatch.setattr(LedgerProcess, "start", lambda _: steps.append("ledger"))
    monkeypatch.setattr(LedgerProcess, "_stop", lambda _: steps.append("ledger stopped"))
    monkeypatch.setattr(server, "serve", answer)
    with pytest.raises(typer.Exit):
        serve(host=None, port=None, data_dir=None, workers=None)
    assert steps == ["migrated", "ledger", "service", "ledger stopped"]
