"""`apishield doctor` tells of events that wait and are taken by nobody."""

from __future__ import annotations

from pathlib import Path

from apishield.cli.examination_spool import look_at_spools
from apishield.settings import Settings
from apishield.stores.spool import Spools, SpoolWriter
from tests.support.clock import ManualClock
from tests.support.spool import SPOOL, decision

MIB = 1024 * 1024


def test_before_the_first_start_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert look_at_spools(Settings(data_dir=tmp_path)) is None


def test_a_service_whose_events_nobody_takes_is_warned_of(tmp_path: Path) -> None:
    settings, root = Settings(data_dir=tmp_path), tmp_path / "spool"
    writer = SpoolWriter(root, SPOOL, ManualClock())
    state = look_at_spools(settings)
    assert state is not None
    assert (state.status, "apishield worker" in (state.fix or "")) == ("warn", True)
    spools = Spools(root, max_bytes=MIB)
    assert spools.hold()
    assert (look_at_spools(settings) or state).status == "ok"
    spools.close()
    writer.close()
    assert (look_at_spools(settings) or state).status == "ok"  # stopped: the next start takes them
    assert Spools(root, max_bytes=MIB).readers()[0].adopt()  # and looking has changed nothing


def test_a_spool_that_runs_full_and_damage_are_warned_of(tmp_path: Path) -> None:
    settings, root = Settings(data_dir=tmp_path, spool_bytes=16 * MIB), tmp_path / "spool"
    writer = SpoolWriter(root, SPOOL, ManualClock())
    spools = Spools(root, max_bytes=MIB)
    assert spools.hold()
    (root / "quarantine").mkdir()
    (root / "quarantine" / "x").touch()
    state = look_at_spools(settings)
    assert state is not None
    assert (state.status, "check the disk" in (state.fix or "")) == ("warn", True)
    while writer.position < 14 * MIB:
        for number in range(1000):
            writer.append(decision(number, message="m" * 2000))
        writer.flush()
    state = look_at_spools(settings)
    assert state is not None
    assert (state.status, "given up" in state.detail) == ("warn", True)
