"""Blocks and allows: one spelling, one of a value, and whose they are."""

from __future__ import annotations

import msgspec
import pytest

from apishield.errors import ProblemError
from apishield.services.base import Ceilings
from apishield.services.blocks import BlockDraft, Kind
from tests.support.clock import SECOND_US
from tests.support.control_plane import FIRST_PAGE, OPERATOR, ControlPlane

KEY_ID = "key_06dnd0g2v5v7h3m8k1q0p2r4t6"


@pytest.mark.parametrize(
    ("kind", "value", "normal_kind", "normal_value"),
    [
        ("ip", "1.2.3.4", "ip", "1.2.3.4"),
        ("ip", "::FFFF:1.2.3.4", "ip", "1.2.3.4"),
        ("ip", "2001:0DB8:0::1", "ip", "2001:db8::1"),
        ("cidr", "10.0.0.0/8", "cidr", "10.0.0.0/8"),
        ("cidr", "192.0.2.7/32", "ip", "192.0.2.7"),
        ("cidr", "2001:DB8::/32", "cidr", "2001:db8::/32"),
        ("key_id", KEY_ID, "key_id", KEY_ID),
        ("country", "de", "country", "DE"),
        ("asn", "AS64500", "asn", "64500"),
    ],
)
async def test_a_value_is_kept_in_its_one_spelling(
    plane: ControlPlane, kind: Kind, value: str, normal_kind: str, normal_value: str
) -> None:
    owner = await plane.owner()
    block = await plane.blocks.create(owner, BlockDraft(kind=kind, value=value))
    assert (block.kind, block.value) == (normal_kind, normal_value)
    assert await plane.blocks.get(owner, block.id, "block") == block


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("ip", "1.2.3"), ("ip", "1.2.3.4/32"), ("ip", "\0"), ("cidr", "10.0.0.1/8"), ("cidr", "0.0.0.0/0"), ("cidr", "::/0"),
        ("key_id", "ten_1"), ("country", "DEU"), ("country", "ß"), ("asn", "0"), ("asn", "4294967296"), ("asn", "AS"),
    ],
)  # fmt: skip
async def test_a_value_that_names_nothing_or_everything_is_refused(plane: ControlPlane, kind: Kind, value: str) -> None:
    owner = await plane.owner()
    with pytest.raises(ProblemError) as caught:
        await plane.blocks.create(owner, BlockDraft(kind=kind, value=value))
    assert [fault.pointer for fault in caught.value.faults] == [f"/{kind}"]


async def test_a_cidr_with_host_bits_is_told_what_was_meant(plane: ControlPlane) -> None:
    owner = await plane.owner()
    with pytest.raises(ProblemError, match=r"did you mean 10\.0\.0\.0/8"):
        await plane.blocks.create(owner, BlockDraft(kind="cidr", value="10.0.0.1/8"))


async def test_a_block_lasts_as_long_as_asked(plane: ControlPlane) -> None:
    owner = await plane.owner()
    block = await plane.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.4", duration_seconds=3600))
    assert block.expires_at_us == plane.clock.now_us + 3600 * SECOND_US
    for duration_seconds in (0, -1, 10**12):
        with pytest.raises(ProblemError) as caught:
            await plane.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.4", duration_seconds=duration_seconds))
        assert caught.value.faults[0].pointer == "/duration_seconds"


async def test_a_new_block_of_a_value_takes_the_place_of_the_old_one(plane: ControlPlane) -> None:
    owner = await plane.owner()
    old = await plane.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.4"))
    plane.clock.advance(1)
    new = await plane.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.4", reason="again", duration_seconds=60))
    allow = await plane.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.4", action="allow"))
    assert (await plane.blocks.list(owner, FIRST_PAGE, action="block")).items == [new]
    assert (await plane.blocks.list(owner, FIRST_PAGE, action="allow")).items == [allow]
    entry = (await plane.audit.list(owner, FIRST_PAGE, target=new.id)).items[0]
    assert entry.before is not None
    assert entry.before["id"] == old.id
    changes = await plane.database.feed.changes_after(0)
    assert changes is not None
    assert [change.object_id for change in changes if change.kind == "block"] == [old.id, old.id, new.id, allow.id]


async def test_lists_find_what_holds_for_an_address_and_what_still_holds(plane: ControlPlane) -> None:
    owner = await plane.owner()
    for kind, value, seconds in (
        ("ip", "10.1.2.3", 10), ("cidr", "10.0.0.0/8", None), ("cidr", "10.1.2.0/24", 10), ("cidr", "10.2.0.0/16", None),
        ("cidr", "2001:db8::/32", None),
    ):  # fmt: skip
        await plane.blocks.create(owner, BlockDraft(kind=kind, value=value, duration_seconds=seconds))  # type: ignore[arg-type]

    async def values(**filters: object) -> list[str]:
        page = await plane.blocks.list(owner, FIRST_PAGE, action="block", **filters)  # type: ignore[arg-type]
        return sorted(block.value for block in page.items)

    assert await values(ip="10.1.2.3") == ["10.0.0.0/8", "10.1.2.0/24", "10.1.2.3"]
    assert await values(ip="2001:db8::9") == ["2001:db8::/32"]
    plane.clock.advance(10)
    assert await values(ip="10.1.2.3", active=True) == ["10.0.0.0/8"]
    assert await values(active=False) == ["10.1.2.0/24", "10.1.2.3"]
    assert await values(source="auto") == []
    with pytest.raises(ProblemError):
        await values(ip="nonsense")


async def test_a_removed_block_is_gone_and_an_allow_is_no_block(plane: ControlPlane) -> None:
    owner = await plane.owner()
    block = await plane.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.4"))
    with pytest.raises(ProblemError):
        await plane.blocks.remove(owner, block.id, "allow")
    await plane.blocks.remove(owner, block.id, "block")
    with pytest.raises(ProblemError) as caught:
        await plane.blocks.get(owner, block.id, "block")
    assert caught.value.code == "not_found"
    assert (await plane.actions(owner))[-2:] == ["block.created", "block.removed"]


async def test_a_tenants_blocks_are_its_own_and_the_operators_are_nobodys_else(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    mine = await plane.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.4"))
    for_all = await plane.blocks.create(OPERATOR, BlockDraft(kind="ip", value="1.2.3.4"))
    assert (mine.tenant_id, for_all.tenant_id) == (owner.tenant_id, None)
    there = msgspec.structs.replace(OPERATOR, tenant_id=owner.tenant_id)
    for actor, seen in ((owner, [mine]), (there, [mine]), (stranger, []), (OPERATOR, [for_all])):
        assert (await plane.blocks.list(actor, FIRST_PAGE, action="block")).items == seen
    for actor, block in ((stranger, mine), (stranger, for_all), (owner, for_all), (OPERATOR, mine)):
        with pytest.raises(ProblemError) as caught:
            await plane.blocks.remove(actor, block.id, "block")
        assert caught.value.code == "not_found"
    again = await plane.blocks.create(OPERATOR, BlockDraft(kind="ip", value="1.2.3.4"))
    assert (await plane.blocks.list(OPERATOR, FIRST_PAGE, action="block")).items == [again]
    assert await plane.actions(OPERATOR) == ["block.created", "block.created"]


async def test_blocks_have_a_ceiling_that_a_replacement_does_not_meet(plane: ControlPlane) -> None:
    small = ControlPlane(plane.database, plane.clock, ceilings=Ceilings(blocks=1))
    owner = await small.owner()
    await small.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.4"))
    await small.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.4"))
    with pytest.raises(ProblemError) as caught:
        await small.blocks.create(owner, BlockDraft(kind="ip", value="1.2.3.5"))
    assert caught.value.code == "ceiling_reached"
