"""Replays share a node: nobody's waits for the end of another tenant's."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from apishield.services.replay_turns import SIDE_BY_SIDE, ReplayTurns


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


async def work(turns: ReplayTurns, tenant_id: str, slices: int, done: list[str]) -> None:
    async with turns.job(tenant_id) as give_way:
        for _ in range(slices):
            done.append(tenant_id)
            await give_way(0.001)


async def test_a_short_replay_is_done_while_another_tenants_long_one_goes_on() -> None:
    turns, done = ReplayTurns(no_pause), list[str]()
    long = asyncio.create_task(work(turns, "ten_a", 100_000, done))
    await asyncio.sleep(0)
    await work(turns, "ten_b", 5, done)
    assert not long.done()
    assert done.count("ten_a") <= 10
    long.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await long
    await work(turns, "ten_c", 1, done)  # nothing is held by who was cancelled


async def test_slices_go_round_by_tenant_and_a_tenants_own_jobs_one_after_the_other() -> None:
    turns, done = ReplayTurns(no_pause), list[str]()
    jobs = [work(turns, tenant_id, 20, done) for tenant_id in ("ten_a", "ten_a", "ten_b")]
    await asyncio.gather(*jobs)
    first = done[: 2 * 20 - 2]
    assert abs(first.count("ten_a") - first.count("ten_b")) <= 1
    assert done.count("ten_a") == 40
    assert turns._tenants == {}


async def test_one_works_at_a_time_and_few_hold_what_they_counted() -> None:
    turns = ReplayTurns(no_pause)
    working = begun = most_begun = 0

    async def look(tenant_id: str) -> None:
        nonlocal working, begun, most_begun
        async with turns.job(tenant_id) as give_way:
            begun += 1
            most_begun = max(most_begun, begun)
            for _ in range(5):
                assert working == 0
                working += 1
                await asyncio.sleep(0)
                working -= 1
                await give_way(0.001)
            begun -= 1

    await asyncio.gather(*(look(f"ten_{number}") for number in range(3 * SIDE_BY_SIDE)))
    assert most_begun == SIDE_BY_SIDE


async def test_a_job_that_fails_in_its_pause_releases_nobody_elses_turn() -> None:
    async def broken(_: float) -> None:
        raise RuntimeError("pause")

    turns = ReplayTurns(broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="pause"):
            await work(turns, "ten_a", 1, [])
    assert not turns._slice.locked()
