"""Policies: checked whole, unique by name, their limits keep their state."""

from __future__ import annotations

import msgspec
import pytest

from apishield.core.model import Mode
from apishield.core.records import Environment, Match, Override
from apishield.errors import ProblemError
from apishield.services.base import Ceilings
from apishield.services.policies import PolicyChanges, PolicyDraft
from tests.support.control_plane import FIRST_PAGE, ControlPlane, quota, rate

FIRST, SECOND = ("key_" + digit * 26 for digit in "12")
SEARCH = PolicyDraft(
    name="search",
    per=("key", "attr:user_id"),
    limit=rate(100),
    match=Match(methods=("GET",), path="/v1/search*", scopes=("read",), attributes={"tier": "free"}),
    overrides=(Override(subject={"key": FIRST}, limit=rate(500)), Override(subject={"key": SECOND}, limit=rate(1))),
)


async def test_a_policy_comes_back_as_it_was_made(plane: ControlPlane) -> None:
    owner = await plane.owner()
    policy = await plane.policies.create(owner, SEARCH)
    assert await plane.policies.get(owner, policy.id) == policy
    assert (policy.name, policy.per, policy.match) == (SEARCH.name, SEARCH.per, SEARCH.match)
    assert policy.limit.id.startswith("lim_")
    assert {override.limit.id for override in policy.overrides} == {policy.limit.id}  # they count where it counts


async def test_changed_numbers_keep_the_state_of_the_limit_and_of_its_overrides(plane: ControlPlane) -> None:
    owner = await plane.owner()
    policy = await plane.policies.create(owner, SEARCH)
    changed = await plane.policies.update(
        owner,
        policy.id,
        PolicyChanges(
            limit=rate(5),
            mode=Mode.SHADOW,
            overrides=(Override(subject={"key": SECOND}, limit=rate(9)),),
        ),
    )
    assert changed.limit == msgspec.structs.replace(rate(5), id=policy.limit.id)
    assert changed.overrides[0].limit.id == policy.limit.id


async def test_the_policy_for_callers_without_a_key_can_be_changed_and_removed(plane: ControlPlane) -> None:
    owner = await plane.owner()
    (anonymous,) = (await plane.policies.list(owner, FIRST_PAGE)).items
    changed = await plane.policies.update(owner, anonymous.id, PolicyChanges(limit=rate(5), enabled=False))
    assert (changed.limit.id, changed.enabled) == (anonymous.limit.id, False)
    await plane.policies.delete(owner, anonymous.id)
    assert (await plane.policies.list(owner, FIRST_PAGE)).items == []
    assert (await plane.actions(owner))[-2:] == ["policy.updated", "policy.deleted"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"per": (), "overrides": ()}, "/per"),
        ({"per": ("key", "colour", "attr:user_id")}, "/per/1"),
        ({"per": ("key", "attr:user_id", "key")}, "/per/2"),
        ({"per": ("key", "attr:", "attr:user_id")}, "/per/1"),
        ({"limit": rate(0)}, "/limit"),
        ({"limit": quota(5)}, "/limit"),
        ({"cost": -1}, "/cost"),
        ({"cost": 0}, "/cost"),
        ({"per": tuple(f"attr:{number}" for number in range(9)), "overrides": ()}, "/per"),
        ({"match": Match(caller="anonymous"), "overrides": ()}, "/per/0"),
        ({"match": Match(caller="anonymous", scopes=("a",)), "per": ("ip",), "overrides": ()}, "/match/scopes"),
        (
            {"match": Match(caller="anonymous", environment=Environment.TEST), "per": ("ip",), "overrides": ()},
            "/match/environment",
        ),
        ({"match": Match(attributes={"a/b~": "\0"})}, "/match/attributes/a~1b~0"),
        ({"overrides": (Override(subject={"key": "Bob's"}, limit=rate(1)),)}, "/overrides/0/subject/key"),
        ({"overrides": (Override(subject={"key": FIRST}, limit=quota(1)),)}, "/overrides/0/limit"),
        (
            {"overrides": (Override(subject={"key": FIRST}, limit=msgspec.structs.replace(rate(1), unit="bytes")),)},
            "/overrides/0/limit/unit",
        ),
        (
            {"overrides": (SEARCH.overrides[0], Override(subject={"key": FIRST, "attr:user_id": "*"}, limit=rate(1)))},
            "/overrides/1/subject",
        ),
        ({"cost": 10**9 + 1}, "/cost"),
        ({"match": Match(methods=("get me",))}, "/match/methods/0"),
        ({"match": Match(path="no slash")}, "/match/path"),
        ({"match": Match(path="/a/{open")}, "/match/path"),
        ({"match": Match(scopes=("a b",))}, "/match/scopes/0"),
        ({"match": Match(attributes={"a": "\0"})}, "/match/attributes/a"),
        ({"overrides": (Override(subject={"ip": "1.2.3.4"}, limit=rate(1)),)}, "/overrides/0/subject"),
        ({"overrides": (Override(subject={}, limit=rate(1)),)}, "/overrides/0/subject"),
        ({"overrides": (Override(subject={"key": FIRST}, limit=rate(0)),)}, "/overrides/0/limit"),
        ({"overrides": (SEARCH.overrides[0], SEARCH.overrides[0])}, "/overrides/1/subject"),
    ],
)
async def test_what_can_not_be_a_policy_is_refused_by_its_field(
    plane: ControlPlane, fields: dict[str, object], pointer: str
) -> None:
    owner = await plane.owner()
    with pytest.raises(ProblemError) as caught:
        await plane.policies.create(owner, msgspec.structs.replace(SEARCH, **fields))
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


async def test_a_name_is_one_policys(plane: ControlPlane) -> None:
    owner = await plane.owner()
    policy = await plane.policies.create(owner, SEARCH)
    with pytest.raises(ProblemError, match=policy.id) as caught:
        await plane.policies.create(owner, SEARCH)
    assert caught.value.code == "conflict"
    assert (await plane.policies.update(owner, policy.id, PolicyChanges(name="search"))).name == "search"


async def test_another_tenants_policy_can_not_be_seen_or_touched(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    policy = await plane.policies.create(owner, SEARCH)
    for attempt in (
        plane.policies.get(stranger, policy.id),
        plane.policies.update(stranger, policy.id, PolicyChanges(enabled=False)),
        plane.policies.delete(stranger, policy.id),
    ):
        with pytest.raises(ProblemError) as caught:
            await attempt
        assert caught.value.code == "not_found"
    assert await plane.policies.get(owner, policy.id) == policy


async def test_policies_have_a_ceiling(plane: ControlPlane) -> None:
    small = ControlPlane(plane.database, plane.clock, ceilings=Ceilings(policies=1))
    owner = await small.owner()
    with pytest.raises(ProblemError) as caught:
        await small.policies.create(owner, SEARCH)
    assert caught.value.code == "ceiling_reached"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"ip": "192.0.2.1"}, {"ip": "192.0.2.1"}),
        ({"ip": "2001:DB8::7"}, {"ip": "2001:db8::/64"}),
        ({"ip": "2001:db8::/64"}, {"ip": "2001:db8::/64"}),
        ({"ip": "::ffff:192.0.2.1"}, {"ip": "192.0.2.1"}),
        ({"ip": "*"}, {"ip": "*"}),
        ({"endpoint": "GET /orders/{id}"}, {"endpoint": "GET /orders/{id}"}),
        ({"endpoint": "* *"}, {"endpoint": "* *"}),
    ],
)
async def test_the_subject_of_an_override_is_kept_as_checks_spell_it(
    plane: ControlPlane, given: dict[str, str], kept: dict[str, str]
) -> None:
    draft = msgspec.structs.replace(
        SEARCH, per=("ip", "endpoint"), match=Match(), overrides=(Override(subject=given, limit=rate(1)),)
    )
    policy = await plane.policies.create(await plane.owner(), draft)
    assert policy.overrides[0].subject == kept


@pytest.mark.parametrize("value", ["10.0.0.0/8", "2001:db8::/32", "2001:db8::/63", "localhost", "", "192.0.2.1 "])
async def test_an_override_names_one_address_as_it_is_counted(plane: ControlPlane, value: str) -> None:
    draft = msgspec.structs.replace(SEARCH, per=("ip",), overrides=(Override(subject={"ip": value}, limit=rate(1)),))
    with pytest.raises(ProblemError) as caught:
        await plane.policies.create(await plane.owner(), draft)
    assert {fault.pointer for fault in caught.value.faults} == {"/overrides/0/subject/ip"}


async def test_a_method_that_is_given_twice_counts_once(plane: ControlPlane) -> None:
    draft = msgspec.structs.replace(SEARCH, match=Match(methods=("GET", "POST", "GET")))
    assert (await plane.policies.create(await plane.owner(), draft)).match.methods == ("GET", "POST")


async def test_overrides_have_a_ceiling_over_all_policies_of_the_tenant(plane: ControlPlane) -> None:
    small = ControlPlane(plane.database, plane.clock, ceilings=Ceilings(overrides=3))
    owner = await small.owner()
    first = await small.policies.create(owner, SEARCH)
    with pytest.raises(ProblemError, match="may have 3 overrides and has 2 besides") as caught:
        await small.policies.create(owner, msgspec.structs.replace(SEARCH, name="second"))
    assert caught.value.code == "ceiling_reached"
    second = await small.policies.create(
        owner, msgspec.structs.replace(SEARCH, name="second", overrides=SEARCH.overrides[:1])
    )
    with pytest.raises(ProblemError, match="besides"):
        await small.policies.update(owner, second.id, PolicyChanges(overrides=SEARCH.overrides))
    await small.policies.update(owner, first.id, PolicyChanges(overrides=SEARCH.overrides[:1]))
    await small.policies.update(owner, second.id, PolicyChanges(overrides=SEARCH.overrides))
