"""What policies in shadow would have refused adds up, is bounded and is forgotten, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from apishield.core.ports import ShadowDay, ShadowSubject
from apishield.stores.sql.database import Database
from apishield.stores.sql.repositories import shadow


async def note(database: Database, day: str, since_us: int, **times: int) -> None:
    subjects = [ShadowSubject("ten", "pol", day, subject, count) for subject, count in times.items()]
    async with database.transaction() as tx:
        await tx.shadow.add([ShadowDay("ten", "pol", day, since_us, sum(times.values()), 1)], subjects)


async def test_counts_of_several_nodes_add_up(database: Database) -> None:
    await asyncio.gather(*(note(database, "2026-11-18", 5, a=2, b=1) for _ in range(4)))
    await note(database, "2026-11-19", 9, b=9)
    await note(database, "2026-11-18", 7)
    async with database.read() as tx:
        assert await tx.shadow.days("ten", "pol") == [
            ShadowDay("ten", "pol", "2026-11-18", 5, 12, 5),
            ShadowDay("ten", "pol", "2026-11-19", 9, 9, 1),
        ]
        assert list((await tx.shadow.subjects("ten", "pol", at_most=9)).items()) == [("b", 13), ("a", 8)]
        assert await tx.shadow.subjects("ten", "pol", at_most=1) == {"b": 13}
        assert await tx.shadow.days("other", "pol") == []


async def test_of_each_day_only_the_highest_counts_are_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "SUBJECTS_KEPT", 2)
    await note(database, "2026-11-17", 1, c=1)
    await note(database, "2026-11-18", 1, a=3, b=2, c=1)
    await note(database, "2026-11-18", 1, d=9)
    async with database.read() as tx:
        assert await tx.shadow.subjects("ten", "pol", at_most=9) == {"d": 9, "a": 3, "c": 1}


async def test_days_and_sooner_subjects_are_forgotten(database: Database) -> None:
    for day in ("2026-11-16", "2026-11-17", "2026-11-18"):
        await note(database, day, 1, **{day[-2:]: 1})
    async with database.transaction() as tx:
        await tx.shadow.forget_before(day="2026-11-17", subjects_day="2026-11-18")
    async with database.read() as tx:
        assert [day.day for day in await tx.shadow.days("ten", "pol")] == ["2026-11-17", "2026-11-18"]
        assert await tx.shadow.subjects("ten", "pol", at_most=9) == {"18": 1}
    async with database.transaction() as tx:
        await tx.shadow.forget("ten", "pol")
    async with database.read() as tx:
        assert (await tx.shadow.days("ten", "pol"), await tx.shadow.subjects("ten", "pol", at_most=9)) == ([], {})
