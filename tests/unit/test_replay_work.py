"""A replay leaves a third of its node's time to others, and lets them go first all the while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from apishield.core.model import SECOND_US, FixedWindow, Limit
from apishield.core.records import Policy
from apishield.core.replay import Replay
from apishield.core.replay_questions import Surroundings
from apishield.core.replay_report import ReplayJob
from apishield.services import replay_work
from apishield.services.replay_work import Work

LIMIT = Limit(id="lim_a", name="a", algorithm=FixedWindow(1, SECOND_US))
POLICY = Policy(id="pol_a", tenant_id="ten_a", name="a", per=("key",), limit=LIMIT, created_at_us=0, updated_at_us=0)
JOB = ReplayJob(
    id="rpl_a", tenant_id="ten_a", status="running", policy=POLICY, from_us=0, to_us=1, covered_from_us=0,
    covered_to_us=1, warm_from_us=0, position_us=0, created_at_us=0, updated_at_us=0,
)  # fmt: skip


class Slow:
    """A replay whose every slice takes ``seconds``."""

    now_us = 0

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        def times() -> Iterator[float]:
            for number in range(1_000):
                yield from (number, number + seconds)

        clock = times()
        monkeypatch.setattr(replay_work, "perf_counter", lambda: next(clock))

    def take(self, decisions: Sequence[Any]) -> None:
        """Takes its time."""


@pytest.mark.parametrize("seconds", [0.0003, 0.0011, 0.0025, 0.012])
async def test_pauses_are_half_as_long_as_the_work_in_whole_milliseconds(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    work, replay = Work(JOB, Surroundings("starter", lambda _: ()), None), Slow(monkeypatch, seconds)
    paused: list[float] = []

    async def pace(pause_seconds: float) -> None:
        paused.append(pause_seconds)

    for _ in range(200):
        await work._take(cast(Replay, replay), [], pace)
    assert sum(paused) == pytest.approx(200 * seconds / 2, abs=0.0011)
    assert all(pause == pytest.approx(round(pause, 3), abs=1e-9) and pause >= 0.001 for pause in paused)


async def test_between_two_slices_whoever_is_ready_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    work, replay = Work(JOB, Surroundings("starter", lambda _: ()), None), Slow(monkeypatch, 0.0001)
    went_first = asyncio.Event()
    asyncio.get_running_loop().call_soon(went_first.set)

    async def never(_: float) -> None:
        raise AssertionError

    await work._take(cast(Replay, replay), [], never)
    assert went_first.is_set()
