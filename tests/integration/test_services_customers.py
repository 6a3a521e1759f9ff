"""Customers: found by the tenant's own word for them, never removed under their keys."""

from __future__ import annotations

import asyncio

import pytest

from apishield.errors import ProblemError
from apishield.services.base import Ceilings
from apishield.services.customers import CustomerChanges, CustomerDraft
from apishield.services.key_drafts import KeyChanges, KeyDraft
from tests.support.control_plane import FIRST_PAGE, ControlPlane, quota, rate


async def test_a_customer_has_limits_that_keep_their_ids_by_name(plane: ControlPlane) -> None:
    owner = await plane.owner()
    draft = CustomerDraft(name="ACME", external_id="crm-1", email="a@example.com", rate_limits=(rate(100),))
    customer = await plane.customers.create(owner, draft)
    assert await plane.customers.get(owner, customer.id) == customer
    changed = await plane.customers.update(owner, customer.id, CustomerChanges(rate_limits=(rate(5),), email=None))
    assert (changed.external_id, changed.email) == ("crm-1", None)
    assert changed.rate_limits[0].id == customer.rate_limits[0].id
    assert changed.rate_limits[0].algorithm != customer.rate_limits[0].algorithm
    assert (await plane.customers.list(owner, FIRST_PAGE, external_id="crm-1")).items == [changed]
    assert (await plane.customers.list(owner, FIRST_PAGE, query="acm")).items == [changed]
    assert (await plane.customers.list(owner, FIRST_PAGE, query="nobody")).items == []


async def test_a_customer_with_keys_is_kept_and_the_refusal_says_how_many(plane: ControlPlane) -> None:
    owner = await plane.owner()
    customer = await plane.customers.create(owner, CustomerDraft(name="ACME"))
    keys = [(await plane.keys.create(owner, KeyDraft(name="k", customer_id=customer.id)))[0] for _ in range(2)]
    with pytest.raises(ProblemError, match="has 2 keys") as caught:
        await plane.customers.delete(owner, customer.id)
    assert caught.value.code == "conflict"
    for key in keys:
        await plane.keys.update(owner, key.id, KeyChanges(customer_id=None))
    await plane.customers.delete(owner, customer.id)
    with pytest.raises(ProblemError) as caught:
        await plane.customers.get(owner, customer.id)
    assert caught.value.code == "not_found"
    assert (await plane.actions(owner))[-1] == "customer.deleted"


async def test_an_external_id_is_one_customers_also_when_two_ask_at_once(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()

    async def make(external_id: str) -> str:
        try:
            return (await plane.customers.create(owner, CustomerDraft(name="c", external_id=external_id))).id
        except ProblemError as problem:
            return problem.code

    made = sorted(await asyncio.gather(make("crm-1"), make("crm-1"), make("crm-2")))
    assert [text[:4] for text in made] == ["conf", "cus_", "cus_"]
    (second,) = (await plane.customers.list(owner, FIRST_PAGE, external_id="crm-2")).items
    with pytest.raises(ProblemError) as caught:
        await plane.customers.update(owner, second.id, CustomerChanges(external_id="crm-1"))
    assert caught.value.code == "conflict"
    assert (await plane.customers.create(stranger, CustomerDraft(name="c", external_id="crm-1"))).external_id == "crm-1"


async def test_another_tenants_customer_can_not_be_seen_or_touched(plane: ControlPlane) -> None:
    owner, stranger = await plane.owner(), await plane.owner()
    customer = await plane.customers.create(owner, CustomerDraft(name="ACME"))
    for attempt in (
        plane.customers.get(stranger, customer.id),
        plane.customers.update(stranger, customer.id, CustomerChanges(name="stolen")),
        plane.customers.delete(stranger, customer.id),
    ):
        with pytest.raises(ProblemError) as caught:
            await attempt
        assert caught.value.code == "not_found"
    assert await plane.customers.get(owner, customer.id) == customer


@pytest.mark.parametrize(
    ("draft", "pointer"),
    [
        (CustomerDraft(name=" "), "/name"),
        (CustomerDraft(name="c", external_id=""), "/external_id"),
        (CustomerDraft(name="c", external_id="\0"), "/external_id"),
        (CustomerDraft(name="c", email="nobody"), "/email"),
        (CustomerDraft(name="c", rate_limits=(quota(5),)), "/rate_limits/0"),
        (CustomerDraft(name="c", rate_limits=(rate(-1),)), "/rate_limits/0"),
    ],
)
async def test_what_can_not_be_kept_is_refused_by_its_field(
    plane: ControlPlane, draft: CustomerDraft, pointer: str
) -> None:
    owner = await plane.owner()
    with pytest.raises(ProblemError) as caught:
        await plane.customers.create(owner, draft)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


async def test_customers_have_a_ceiling(plane: ControlPlane) -> None:
    small = ControlPlane(plane.database, plane.clock, ceilings=Ceilings(customers=1))
    owner = await small.owner()
    await small.customers.create(owner, CustomerDraft(name="c"))
    with pytest.raises(ProblemError) as caught:
        await small.customers.create(owner, CustomerDraft(name="c"))
    assert caught.value.code == "ceiling_reached"


async def test_the_address_of_a_person_is_in_no_audit_entry(plane: ControlPlane) -> None:
    owner = await plane.owner()
    customer = await plane.customers.create(owner, CustomerDraft(name="c", email="person@example.com"))
    await plane.customers.update(owner, customer.id, CustomerChanges(email="other@example.com"))
    entries = (await plane.audit.list(owner, FIRST_PAGE, target=customer.id)).items
    assert len(entries) == 2
    assert "example.com" not in str(entries)
