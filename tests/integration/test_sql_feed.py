"""The change feed: numbers in the order of commits, no gaps that fill later, and it knows what it no longer knows."""

from __future__ import annotations

import asyncio

from apishield.core.ports import Change
from apishield.stores.sql import feed
from apishield.stores.sql.database import Database
from tests.support.clock import ManualClock
from tests.support.control_plane import OPERATOR, ControlPlane
from tests.support.database import plain_url


async def announce(database: Database, *object_ids: str) -> None:
    async with database.transaction() as tx:
        for object_id in object_ids:
            tx.changed("key", "ten_1", object_id)


async def test_an_object_that_changes_twice_in_a_transaction_is_announced_once(database: Database) -> None:
    await announce(database, "key_1", "key_2", "key_1")
    assert await database.feed.changes_after(0) == [
        Change(1, "ten_1", "key", "key_1"),
        Change(2, "ten_1", "key", "key_2"),
    ]
    assert await database.feed.changes_after(1) == [Change(2, "ten_1", "key", "key_2")]
    assert await database.feed.changes_after(2) == []


async def test_a_reader_that_follows_writers_on_two_nodes_never_sees_a_number_before_a_smaller_one(
    database: Database, clock: ManualClock
) -> None:
    other_node = Database(plain_url(database), clock)
    seen: list[int] = []
    done = asyncio.Event()

    async def follow() -> None:
        while not done.is_set() or await database.feed.changes_after(len(seen)):
            changes = await database.feed.changes_after(seen[-1] if seen else 0)
            assert changes is not None
            seen.extend(change.sequence for change in changes)

    follower = asyncio.create_task(follow())
    await asyncio.gather(
        *(announce(node, f"key_{n}", f"key_{n + 1}") for node in (database, other_node) for n in range(25))
    )
    done.set()
    await follower
    assert seen == list(range(1, 101))
    await other_node.close()


async def test_the_feed_reaches_back_an_hour_and_says_when_it_does_not(database: Database, clock: ManualClock) -> None:
    await announce(database, "key_old")
    clock.now_us += feed.KEPT_US + 1
    await announce(database, "key_recent")
    clock.advance(1)
    await announce(database, *(f"key_{n}" for n in range(300)))
    assert await database.feed.changes_after(0) is None
    recent = await database.feed.changes_after(1)
    assert recent is not None
    assert [recent[0].object_id, len(recent)] == ["key_recent", 301]


async def test_a_database_that_was_put_back_is_noticed(database: Database) -> None:
    await announce(database, "key_1")
    assert await database.feed.changes_after(2) is None


async def test_objects_are_given_as_they_are_now_and_deleted_ones_are_absent(plane: ControlPlane) -> None:
    owner = await plane.owner()
    loaded = await plane.database.feed.load()
    assert [len(loaded.tenants), len(loaded.tokens), len(loaded.keys), len(loaded.policies)] == [1, 1, 1, 1]
    assert [secret.owner_id for secret in loaded.key_secrets] == [loaded.keys[0].id]
    assert [secret.owner_id for secret in loaded.token_secrets] == [loaded.tokens[0].id]
    await plane.policies.delete(owner, loaded.policies[0].id)
    revoked = await plane.keys.revoke(owner, loaded.keys[0].id)
    changes = await plane.database.feed.changes_after(loaded.sequence)
    assert changes is not None
    assert [change.kind for change in changes] == ["policy", "key"]
    rows = await plane.database.feed.load_objects(changes)
    assert rows.policies == []
    assert rows.keys == [revoked]
    assert rows.key_secrets == loaded.key_secrets
    assert rows.sequence == changes[-1].sequence


async def test_nothing_of_a_deleted_tenant_is_given(plane: ControlPlane) -> None:
    owner = await plane.owner()
    before = await plane.database.feed.load()
    assert owner.tenant_id is not None
    await plane.tenants.delete(OPERATOR, owner.tenant_id)
    changes = [Change(1, owner.tenant_id, "key", before.keys[0].id), Change(2, None, "tenant", owner.tenant_id)]
    for rows in (await plane.database.feed.load(), await plane.database.feed.load_objects(changes)):
        assert not any([rows.tenants, rows.tokens, rows.keys, rows.policies, rows.key_secrets, rows.token_secrets])
