"""What repositories promise the services: tenancy, pages, writes behind that never go back."""

from __future__ import annotations

import itertools
import secrets

import msgspec
import pytest
from sqlalchemy.exc import IntegrityError

from apishield.core.ids import new_id
from apishield.core.key_manager.lifecycle import Status, status
from apishield.core.ports import QuotaUse
from apishield.core.records import Key
from apishield.errors import ProblemError
from apishield.services.customers import CustomerDraft
from apishield.services.key_drafts import KeyDraft
from apishield.stores.sql.database import Database
from apishield.stores.sql.pagination import PageRequest
from tests.support.clock import SECOND_US
from tests.support.control_plane import FIRST_PAGE, ControlPlane


async def test_pages_give_each_item_once_newest_first(plane: ControlPlane) -> None:
    owner = await plane.owner()
    made = []
    for number in range(7):
        plane.clock.advance(0.001)
        made.append((await plane.keys.create(owner, KeyDraft(name=f"key {number}")))[0].id)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await plane.keys.list(owner, PageRequest(3, cursor), query="key ")
        seen += [key.id for key in page.items]
        if page.next_cursor is None:
            break
        assert len(page.items) == 3
        cursor = page.next_cursor
    assert seen == made[::-1]


async def test_a_page_that_is_just_full_is_the_last(plane: ControlPlane) -> None:
    owner = await plane.owner()
    await plane.keys.create(owner, KeyDraft(name="second"))
    assert (await plane.keys.list(owner, PageRequest(2))).next_cursor is None


async def test_another_tenants_cursor_shows_nothing_of_it(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    for number in range(3):
        await plane.keys.create(owner, KeyDraft(name=str(number)))
    cursor = (await plane.keys.list(owner, PageRequest(1))).next_cursor
    shown = (await plane.keys.list(stranger, PageRequest(100, cursor))).items
    assert {key.tenant_id for key in shown} <= {stranger.tenant_id}


async def test_a_status_in_sql_is_the_status_of_the_lifecycle(plane: ControlPlane) -> None:
    owner = await plane.owner()
    assert owner.tenant_id is not None
    now_us = plane.clock.now_us
    keys = [
        Key(
            id=new_id("key", now_us, secrets.token_bytes), tenant_id=owner.tenant_id, name="", hint="",
            created_at_us=now_us, updated_at_us=now_us, enabled=enabled, expires_at_us=expires, revoked_at_us=revoked,
        )
        for enabled, expires, revoked in itertools.product(
            [True, False], [None, now_us - 1, now_us, now_us + 1], [None, now_us - 1]
        )
    ]  # fmt: skip
    async with plane.database.transaction() as tx:
        await tx.keys.insert_many(owner.tenant_id, keys)
    states: list[Status] = ["active", "disabled", "expired", "revoked"]
    for state in states:
        page = await plane.keys.list(owner, FIRST_PAGE, status=state, query=None)
        wanted = {key.id for key in keys if status(key, now_us) == state}
        assert {key.id for key in page.items} & {key.id for key in keys} == wanted
        assert wanted


async def test_a_search_takes_wildcards_for_what_they_are(plane: ControlPlane) -> None:
    owner = await plane.owner()
    for name in ("100% sure", "1000 sure", "under_score", "underXscore", "Grüße"):
        await plane.keys.create(owner, KeyDraft(name=name))

    async def found(query: str) -> list[str]:
        return [key.name for key in (await plane.keys.list(owner, FIRST_PAGE, query=query)).items]

    assert await found("0% S") == ["100% sure"]
    assert await found("r_s") == ["under_score"]
    assert await found("grü") == ["Grüße"]


async def test_a_record_of_another_tenant_is_never_written(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="mine"))
    async with plane.database.transaction() as tx:
        with pytest.raises(ValueError, match="not of"):
            await tx.keys.replace(stranger.tenant_id, key)
        await tx.keys.replace(
            stranger.tenant_id, msgspec.structs.replace(key, tenant_id=stranger.tenant_id, name="stolen")
        )
        await tx.keys.delete(stranger.tenant_id, key.id)
    assert await plane.keys.get(owner, key.id) == key


async def test_the_database_itself_refuses_a_key_of_another_tenants_customer(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    customer = await plane.customers.create(stranger, CustomerDraft(name="theirs"))
    key, _ = await plane.keys.create(owner, KeyDraft(name="mine"))

    async def point_at_it() -> None:
        async with plane.database.transaction() as tx:
            await tx.keys.replace(owner.tenant_id, msgspec.structs.replace(key, customer_id=customer.id))

    with pytest.raises(IntegrityError):
        await point_at_it()


@pytest.mark.parametrize("object_id", ["key_\0", "\ud800", "", "x" * 10_000, "key_é"])
async def test_an_id_that_could_not_be_one_names_nothing(plane: ControlPlane, object_id: str) -> None:
    owner = await plane.owner()
    with pytest.raises(ProblemError) as caught:
        await plane.keys.get(owner, object_id)
    assert caught.value.code == "not_found"


async def test_the_last_use_is_written_behind_and_never_goes_back(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="used"))
    used_at_us = plane.clock.now_us + SECOND_US
    before = await plane.database.feed.changes_after(0)
    await plane.keys.touch({key.id: used_at_us, "key_unknown": 1})
    await plane.keys.touch({key.id: used_at_us - 1})
    await plane.keys.touch({})
    assert (await plane.keys.get(owner, key.id)).last_used_at_us == used_at_us
    assert await plane.database.feed.changes_after(0) == before
    assert "key.updated" not in await plane.actions(owner)


async def test_a_change_of_a_key_does_not_undo_a_use_that_was_noted_meanwhile(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="used"))
    await plane.keys.touch({key.id: 5})
    async with plane.database.transaction() as tx:
        await tx.keys.replace(key.tenant_id, key)
    assert (await plane.keys.get(owner, key.id)).last_used_at_us == 5


async def test_an_older_word_on_a_quota_never_overwrites_a_newer_one(database: Database) -> None:
    await database.quotas.write([QuotaUse("a", 0, 10, at_us=5), QuotaUse("b", 0, 1, at_us=1)])
    await database.quotas.write(
        [QuotaUse("a", 0, 9, at_us=4), QuotaUse("b", 0, 2, at_us=1), QuotaUse("a", 7, 3, at_us=9)]
    )
    assert await database.quotas.load(["a", "b", "c"], 0) == {"a": 10, "b": 2}
    assert await database.quotas.load(["a", "b"], 7) == {"a": 3}
    assert await database.quotas.load([], 7) == {}


async def test_nodes_that_beat_are_counted_and_silent_ones_are_not(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.meta.beat("nod_1", started_at_us=0, now_us=10)
        await tx.meta.beat("nod_2", started_at_us=0, now_us=1)
        await tx.meta.beat("nod_2", started_at_us=0, now_us=20)
        assert await tx.meta.live_nodes(since_us=10) == 2
        assert await tx.meta.live_nodes(since_us=11) == 1
        await tx.meta.leave("nod_2")
        await tx.meta.forget_nodes(before_us=11)
        assert await tx.meta.live_nodes(since_us=0) == 0
