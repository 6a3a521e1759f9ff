"""The life of a key, on both databases."""

from __future__ import annotations

import asyncio
import math

import msgspec
import pytest

from apishield.core.key_manager.format import inspect
from apishield.core.key_manager.hashing import digest
from apishield.core.model import SECOND_US, FixedWindow, Limit, Mode, SlidingWindow, TokenBucket
from apishield.core.records import Actor, Environment, Key, KeyKind, SecretHash
from apishield.errors import ProblemError
from apishield.services.base import Ceilings
from apishield.services.customers import CustomerDraft
from apishield.services.key_drafts import KeyChanges, KeyDraft
from apishield.services.secrets import Secrets
from tests.support.control_plane import FIRST_PAGE, ControlPlane, quota, rate


async def secrets_of(plane: ControlPlane, key: Key) -> dict[bytes, SecretHash]:
    rows = await plane.database.feed.load()
    return {secret.digest: secret for secret in rows.key_secrets if secret.owner_id == key.id}


def stored(plane: ControlPlane, secret: str) -> bytes:
    return digest(plane.secrets.pepper(), secret)


async def test_a_key_comes_back_as_it_was_made_and_its_secret_only_once(plane: ControlPlane) -> None:
    owner = await plane.owner()
    customer = await plane.customers.create(owner, CustomerDraft(name="ACME"))
    draft = KeyDraft(
        name="Production Key ✓", environment=Environment.TEST, customer_id=customer.id, scopes=("read", "orders:*", "read"),
        rate_limits=(rate(1000), rate(10, "burst", seconds=1)), quotas=(quota(500_000),),
        allowed_ips=("10.0.0.0/8", "2001:DB8::1", "::ffff:192.0.2.1", "192.0.2.1/32"), metadata={"plan": "gold"},
        expires_at_us=plane.clock.now_us + SECOND_US,
    )  # fmt: skip
    key, secret = await plane.keys.create(owner, draft)
    assert secret.startswith("sk_test_")
    assert inspect(secret).intact
    assert await plane.keys.get(owner, key.id) == key
    assert key.scopes == ("read", "orders:*")
    assert key.allowed_ips == ("10.0.0.0/8", "2001:db8::1", "192.0.2.1")
    assert key.hint == f"sk_test_{secret[8:10]}…{secret[-4:]}"
    assert [limit.id[:4] for limit in (*key.rate_limits, *key.quotas)] == ["lim_"] * 3
    assert len({limit.id for limit in (*key.rate_limits, *key.quotas)}) == 3
    assert list(await secrets_of(plane, key)) == [stored(plane, secret)]


async def test_a_limit_that_keeps_its_name_keeps_its_id_and_so_its_state(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k", rate_limits=(rate(1), rate(2, "b")), quotas=(quota(3),)))
    ids = {limit.name: limit.id for limit in (*key.rate_limits, *key.quotas)}
    changed = msgspec.structs.replace(rate(5), algorithm=TokenBucket(5, SECOND_US, 10), mode=Mode.SHADOW)
    after = await plane.keys.update(
        owner, key.id, KeyChanges(rate_limits=(changed, rate(1, "new")), quotas=(quota(9),))
    )
    assert after.rate_limits[0] == msgspec.structs.replace(changed, id=ids["default"])
    assert after.rate_limits[1].id not in ids.values()
    assert after.quotas[0].id == ids["monthly"]
    after = await plane.keys.update(owner, key.id, KeyChanges(rate_limits=()))
    assert after.rate_limits == ()
    assert after.quotas[0].id == ids["monthly"]


ODD_UNIT = Limit(id="", name="a", unit="Bytes!", algorithm=FixedWindow(1, SECOND_US))
MANY_NETWORKS = tuple(f"10.0.{n // 256}.{n % 256}" for n in range(257))
BOUND_SERVICE_KEY = KeyDraft(
    name="k", kind=KeyKind.SERVICE, scopes=("read",), rate_limits=(rate(1),), quotas=(quota(1),), customer_id="cus_1"
)
SEVERAL_FAULTS = KeyDraft(name="", scopes=("a b",), allowed_ips=("nonsense", "10.0.0.1/8"))


@pytest.mark.parametrize(
    ("draft", "pointers"),
    [
        (SEVERAL_FAULTS, ["/name", "/scopes/0", "/allowed_ips/0", "/allowed_ips/1"]),
        (BOUND_SERVICE_KEY, ["/scopes", "/rate_limits", "/quota", "/customer_id", "/customer_id"]),
        (KeyDraft(name="k\0"), ["/name"]),
        (KeyDraft(name="k", metadata={"a": math.inf}), ["/metadata"]),
        (KeyDraft(name="k", expires_at_us=1), ["/expires_at"]),
        (KeyDraft(name="k", customer_id="cus_none"), ["/customer_id"]),
        (KeyDraft(name="k", customer_id="cus_\0"), ["/customer_id"]),
        (KeyDraft(name="k", rate_limits=(rate(0),)), ["/rate_limits/0"]),
        (KeyDraft(name="k", rate_limits=(rate(10**9 + 1),)), ["/rate_limits/0"]),
        (KeyDraft(name="k", rate_limits=(rate(1), rate(2))), ["/rate_limits/1/name"]),
        (KeyDraft(name="k", rate_limits=(rate(1, "a\0"),)), ["/rate_limits/0/name"]),
        (KeyDraft(name="k", rate_limits=tuple(rate(1, f"l{n}") for n in range(21))), ["/rate_limits"]),
        (KeyDraft(name="k", rate_limits=(quota(1),)), ["/rate_limits/0"]),
        (KeyDraft(name="k", quotas=(rate(1),)), ["/quota/0"]),
        (KeyDraft(name="k", rate_limits=(ODD_UNIT,)), ["/rate_limits/0/unit"]),
        (KeyDraft(name="k", scopes=tuple(f"s{n}" for n in range(101))), ["/scopes"]),
        (KeyDraft(name="k", allowed_ips=MANY_NETWORKS), ["/allowed_ips"]),
    ],
)
async def test_all_faults_are_named_at_once_and_nothing_is_made(
    plane: ControlPlane, draft: KeyDraft, pointers: list[str]
) -> None:
    owner = await plane.owner()
    with pytest.raises(ProblemError) as caught:
        await plane.keys.create(owner, draft)
    assert caught.value.status == 422
    assert [fault.pointer for fault in caught.value.faults] == pointers
    assert len((await plane.keys.list(owner, FIRST_PAGE)).items) == 1


async def test_limits_that_can_not_be_used_have_a_code_of_their_own(plane: ControlPlane) -> None:
    owner = await plane.owner()
    with pytest.raises(ProblemError) as caught:
        await plane.keys.create(owner, KeyDraft(name="k", rate_limits=(rate(0),)))
    assert caught.value.code == "invalid_limit"
    with pytest.raises(ProblemError) as caught:
        await plane.keys.create(owner, KeyDraft(name="", rate_limits=(rate(0),)))
    assert caught.value.code == "validation_failed"


async def test_a_rotated_secret_works_on_for_the_grace_never_past_the_expiry(plane: ControlPlane) -> None:
    owner = await plane.owner()
    end_us = plane.clock.now_us + 100 * SECOND_US
    key, first = await plane.keys.create(owner, KeyDraft(name="k", expires_at_us=end_us))
    rotated, second = await plane.keys.rotate(owner, key.id, grace_seconds=60)
    assert rotated.previous_expires_at_us == plane.clock.now_us + 60 * SECOND_US
    kept = await secrets_of(plane, key)
    assert kept[stored(plane, first)].expires_at_us == rotated.previous_expires_at_us
    assert kept[stored(plane, second)].expires_at_us is None
    rotated, third = await plane.keys.rotate(owner, key.id, grace_seconds=604_800)
    assert rotated.previous_expires_at_us == end_us
    kept = await secrets_of(plane, key)
    assert kept[stored(plane, first)].expires_at_us == plane.clock.now_us + 60 * SECOND_US
    assert kept[stored(plane, second)].expires_at_us == end_us
    assert kept[stored(plane, third)].expires_at_us is None
    assert rotated.hint.endswith(third[-4:])


async def test_a_rotation_without_grace_ends_every_older_secret_at_once(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k"))
    await plane.keys.rotate(owner, key.id, grace_seconds=600)
    _, last = await plane.keys.rotate(owner, key.id)
    assert list(await secrets_of(plane, key)) == [stored(plane, last)]


async def test_an_expiry_that_is_brought_forward_takes_the_grace_with_it(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, first = await plane.keys.create(owner, KeyDraft(name="k"))
    await plane.keys.rotate(owner, key.id, grace_seconds=600)
    end_us = plane.clock.now_us + 10 * SECOND_US
    after = await plane.keys.update(owner, key.id, KeyChanges(expires_at_us=end_us))
    assert after.previous_expires_at_us == end_us
    assert (await secrets_of(plane, key))[stored(plane, first)].expires_at_us == end_us
    after = await plane.keys.update(owner, key.id, KeyChanges(expires_at_us=None))
    assert (after.expires_at_us, after.previous_expires_at_us) == (None, end_us)


@pytest.mark.parametrize("grace_seconds", [-1, 604_801])
async def test_a_grace_out_of_bounds_is_refused(plane: ControlPlane, grace_seconds: int) -> None:
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k"))
    with pytest.raises(ProblemError) as caught:
        await plane.keys.rotate(owner, key.id, grace_seconds=grace_seconds)
    assert caught.value.faults[0].pointer == "/grace_seconds"


async def test_what_is_over_stays_over(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k"))
    revoked = await plane.keys.revoke(owner, key.id)
    plane.clock.advance(1)
    assert await plane.keys.revoke(owner, key.id) == revoked
    expiring, _ = await plane.keys.create(owner, KeyDraft(name="e", expires_at_us=plane.clock.now_us + 1))
    plane.clock.now_us += 1
    for attempt in (
        plane.keys.update(owner, key.id, KeyChanges(enabled=True)),
        plane.keys.rotate(owner, key.id),
        plane.keys.rotate(owner, expiring.id),
    ):
        with pytest.raises(ProblemError) as caught:
            await attempt
        assert caught.value.code == "conflict"
    renamed = await plane.keys.update(owner, expiring.id, KeyChanges(name="still expired"))
    assert renamed.expires_at_us == expiring.expires_at_us


async def test_the_secret_of_a_revoked_key_is_still_known_so_that_it_can_be_called_revoked(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, secret = await plane.keys.create(owner, KeyDraft(name="k"))
    await plane.keys.revoke(owner, key.id)
    assert stored(plane, secret) in await secrets_of(plane, key)


async def test_another_tenants_key_can_not_be_seen_or_touched(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k"))
    customer = await plane.customers.create(owner, CustomerDraft(name="ACME"))
    for attempt in (
        plane.keys.get(stranger, key.id),
        plane.keys.update(stranger, key.id, KeyChanges(name="stolen")),
        plane.keys.rotate(stranger, key.id),
        plane.keys.revoke(stranger, key.id),
    ):
        with pytest.raises(ProblemError) as caught:
            await attempt
        assert caught.value.code == "not_found"
    with pytest.raises(ProblemError) as caught:
        await plane.keys.create(stranger, KeyDraft(name="k", customer_id=customer.id))
    assert caught.value.faults[0].pointer == "/customer_id"
    assert (await plane.keys.list(stranger, FIRST_PAGE, query=key.id)).items == []
    assert await plane.keys.get(owner, key.id) == key


async def test_creates_at_once_all_succeed_up_to_the_ceiling_and_no_further(plane: ControlPlane) -> None:
    small = ControlPlane(plane.database, plane.clock, ceilings=Ceilings(keys=5))
    owner = await small.owner()

    async def make(actor: Actor) -> str:
        try:
            await small.keys.create(actor, KeyDraft(name="k"))
        except ProblemError as problem:
            return problem.code
        return "made"

    results = await asyncio.gather(*(make(owner) for _ in range(10)))
    assert results.count("made") == 4  # the service key is the fifth
    assert results.count("ceiling_reached") == 6
    assert (await small.audit.verify(owner.tenant_id)).holds


async def test_a_revoked_key_makes_room_for_another_and_an_expired_one_that_could_be_revived_does_not(
    plane: ControlPlane,
) -> None:
    small = ControlPlane(plane.database, plane.clock, ceilings=Ceilings(keys=2))
    owner = await small.owner()
    for _ in range(3):
        end_us = plane.clock.now_us + 1
        key, _ = await small.keys.create(owner, KeyDraft(name="k", expires_at_us=end_us))
        plane.clock.now_us = end_us
        with pytest.raises(ProblemError, match="Revoke one") as caught:
            await small.keys.create(owner, KeyDraft(name="one too many"))
        assert caught.value.code == "ceiling_reached"
        await small.keys.revoke(owner, key.id)


async def test_a_secret_is_renewed_under_the_newest_pepper_once(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, secret = await plane.keys.create(owner, KeyDraft(name="k"))
    old = stored(plane, secret)
    newer = Secrets.parse("2:" + "bmV3ZXI0" * 8 + ",1:" + "c2VjcmV0" * 8)
    assert newer.pepper(1) == plane.secrets.pepper()
    renewing = ControlPlane(plane.database, plane.clock, newer)
    await renewing.keys.renew(key.tenant_id, old, secret)
    await renewing.keys.renew(key.tenant_id, old, secret)
    (renewed,) = (await secrets_of(plane, key)).values()
    assert (renewed.digest, renewed.pepper_version) == (digest(newer.pepper(2), secret), 2)
    changes = await plane.database.feed.changes_after(0)
    assert changes is not None
    assert [change.object_id for change in changes].count(key.id) == 2


async def test_a_change_is_audited_with_what_was_and_what_is_and_nothing_else(plane: ControlPlane) -> None:
    owner = msgspec.structs.replace(await plane.owner(), request_id="req_1")
    key, _ = await plane.keys.create(owner, KeyDraft(name="k", metadata={"secret": "canary"}))
    await plane.keys.update(owner, key.id, KeyChanges(name="n", enabled=False, metadata={"secret": "canary2"}))
    entry = (await plane.audit.list(owner, FIRST_PAGE, target=key.id)).items[0]
    assert (entry.actor, entry.action, entry.address, entry.request_id) == (
        owner.id,
        "key.updated",
        "192.0.2.1",
        "req_1",
    )
    assert entry.before is not None
    assert entry.after is not None
    assert entry.before.keys() == entry.after.keys() == {"name", "enabled", "metadata"}
    assert (entry.before["name"], entry.after["name"]) == ("k", "n")
    assert entry.before["metadata"] != entry.after["metadata"]
    assert "canary" not in str(entry)


async def test_an_algorithm_can_be_changed_under_its_name(plane: ControlPlane) -> None:
    owner = await plane.owner()
    key, _ = await plane.keys.create(owner, KeyDraft(name="k", rate_limits=(rate(5),)))
    fixed = msgspec.structs.replace(rate(5), algorithm=FixedWindow(5, 60 * SECOND_US))
    after = await plane.keys.update(owner, key.id, KeyChanges(rate_limits=(fixed,)))
    assert isinstance(key.rate_limits[0].algorithm, SlidingWindow)
    assert isinstance(after.rate_limits[0].algorithm, FixedWindow)
