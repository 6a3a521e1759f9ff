"""A node on SQLite is killed, and its ledger process, at random moments: the ledger is what was answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.ledger.campaign import run_seed
from tests.faults.ledger.targets import SqliteTarget
from tests.support.processes import Reaper

pytestmark = pytest.mark.timeout(900)  # many starts of processes, on whatever machine
SEEDS = 3


@pytest.fixture(scope="module")
def target(reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteTarget]:
    """A node; each seed has a tenant of its own."""
    target = SqliteTarget(reaper, tmp_path_factory.mktemp("sqlite"))
    yield target
    target.close()


async def test_the_ledger_is_what_was_answered_whatever_is_killed(target: SqliteTarget, seed: int) -> None:
    outcome = await run_seed(seed, target)
    assert outcome.decisions
