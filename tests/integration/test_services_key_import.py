"""Imports: each item by itself, nothing twice, nothing that could not be used afterwards."""

from __future__ import annotations

from hashlib import sha256

import pytest

from apishield.core.key_manager.hashing import digest
from apishield.core.records import KeyKind
from apishield.errors import ProblemError
from apishield.services.base import Ceilings
from apishield.services.key_drafts import ImportItem, KeyDraft
from apishield.services.secrets import Secrets
from tests.support.control_plane import FIRST_PAGE, ControlPlane, rate

OLD_KEY = "old-style-key-of-24-char"


def item(secret: str | None = None, sha256: str | None = None, **draft: object) -> ImportItem:
    return ImportItem(draft=KeyDraft(name="imported", **draft), secret=secret, sha256=sha256)  # type: ignore[arg-type]


async def test_keys_in_clear_and_as_hashes_work_as_if_they_had_been_made_here(plane: ControlPlane) -> None:
    owner = await plane.owner()
    results = await plane.keys.import_many(
        owner,
        [item(OLD_KEY, rate_limits=(rate(5),)), item(sha256=sha256(b"known only as a hash").hexdigest().upper())],
    )
    clear, hashed = [result.key for result in results]
    assert clear is not None
    assert hashed is not None
    assert (clear.hint, hashed.hint) == ("ol…ar", "…")
    rows = await plane.database.feed.load()
    by_owner = {secret.owner_id: secret.digest for secret in rows.key_secrets}
    assert by_owner[clear.id] == digest(plane.secrets.pepper(), OLD_KEY)
    assert by_owner[hashed.id] == digest(plane.secrets.pepper(), "known only as a hash")
    assert clear.rate_limits[0].id.startswith("lim_")
    assert (await plane.actions(owner))[-2:] == ["key.imported", "key.imported"]


async def test_a_bad_item_spoils_only_itself(plane: ControlPlane) -> None:
    owner = await plane.owner()
    items = [
        item("too short"),
        item(OLD_KEY),
        item("with a space in it, and long enough"),
        item("sk_live_" + "0" * 36),
        item(sha256="abc"),
        item(sha256="zz" * 32),
        item(OLD_KEY + "1", sha256="00" * 32),
        item(),
        item(OLD_KEY + "2", kind=KeyKind.SERVICE),
        item(OLD_KEY + "3", customer_id="cus_none"),
        item(OLD_KEY + "4", scopes=("a b",)),
        item("é" * 24),
        item(OLD_KEY + "5"),
    ]
    results = await plane.keys.import_many(owner, items)
    assert [result.key is not None for result in results] == [n in (1, 12) for n in range(13)]
    assert [result.faults[0].pointer for result in results if result.faults] == [
        "/key", "/key", "/key", "/sha256", "/sha256", "", "", "/kind", "/customer_id", "/scopes/0", "/key",
    ]  # fmt: skip
    assert len((await plane.keys.list(owner, FIRST_PAGE, query="imported")).items) == 2


async def test_a_key_is_unique_within_its_tenant_and_free_for_others(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    first = await plane.keys.import_many(owner, [item(OLD_KEY), item(OLD_KEY + "1"), item(OLD_KEY + "1")])
    assert [result.key is not None for result in first] == [True, False, False]
    again = await plane.keys.import_many(
        owner, [item(sha256=sha256(OLD_KEY.encode()).hexdigest()), item(OLD_KEY + "1")]
    )
    assert [result.key is not None for result in again] == [False, True]
    assert (await plane.keys.import_many(stranger, [item(OLD_KEY)]))[0].key is not None


async def test_a_key_is_recognised_under_an_older_pepper_too(plane: ControlPlane) -> None:
    owner = await plane.owner()
    await plane.keys.import_many(owner, [item(OLD_KEY)])
    newer = Secrets.parse("2:" + "bmV3ZXI0" * 8 + ",1:" + "c2VjcmV0" * 8)
    again = await ControlPlane(plane.database, plane.clock, newer).keys.import_many(owner, [item(OLD_KEY)])
    assert again[0].key is None


async def test_an_import_fills_up_to_the_ceiling(plane: ControlPlane) -> None:
    small = ControlPlane(plane.database, plane.clock, ceilings=Ceilings(keys=3))
    owner = await small.owner()
    results = await small.keys.import_many(owner, [item(OLD_KEY + str(n)) for n in range(4)])
    assert [result.key is not None for result in results] == [True, True, False, False]
    assert results[0].key is not None
    await small.keys.revoke(owner, results[0].key.id)
    again = await small.keys.import_many(owner, [item(OLD_KEY + str(n)) for n in (4, 5)])
    assert [result.key is not None for result in again] == [True, False]


@pytest.mark.parametrize("count", [0, 1001])
async def test_an_import_has_1_to_1000_items(plane: ControlPlane, count: int) -> None:
    owner = await plane.owner()
    with pytest.raises(ProblemError) as caught:
        await plane.keys.import_many(owner, [item(OLD_KEY + str(n)) for n in range(count)])
    assert caught.value.code == "validation_failed"


async def test_a_thousand_keys_go_in_at_once(plane: ControlPlane) -> None:
    owner = await plane.owner()
    results = await plane.keys.import_many(owner, [item(f"{OLD_KEY}{n}") for n in range(1000)])
    assert all(result.key is not None for result in results)
    assert (await plane.audit.verify(owner.tenant_id)).holds
