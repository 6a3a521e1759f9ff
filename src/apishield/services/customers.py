"""Customers: whom a tenant sells its API to. Their limits are shared by all of their keys."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from apishield.core.model import Limit
from apishield.core.records import Actor, Customer
from apishield.errors import Fault, ProblemError
from apishield.services.audited import Audited
from apishield.services.base import (
    Service,
    differing,
    given,
    hold_tenant,
    is_unchanged,
    not_found,
    refuse_over,
    tenant_of,
)
from apishield.services.checks import Faults, is_quota
from apishield.stores.sql.pagination import Page, PageRequest
from apishield.stores.sql.unit_of_work import UnitOfWork

MAX_EMAIL_CHARACTERS = 254  # RFC 5321, section 4.5.3.1.3, less the angle brackets


class CustomerDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A customer to be made. ``external_id`` is the tenant's own word for it, unique within the tenant."""

    name: str
    external_id: str | None = None
    email: str | None = None
    rate_limits: tuple[Limit, ...] = ()


class CustomerChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What to change; what is absent stays. A limit that keeps its name keeps its state."""

    name: str | UnsetType = UNSET
    external_id: str | UnsetType | None = UNSET
    email: str | UnsetType | None = UNSET
    rate_limits: tuple[Limit, ...] | UnsetType = UNSET


class CustomerService(Service):
    """A tenant's customers."""

    async def create(self, actor: Actor, draft: CustomerDraft) -> Customer:
        """Makes a customer."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            customer = Customer(
                id=tx.new_id("cus"),
                tenant_id=tenant.id,
                name=draft.name,
                external_id=draft.external_id,
                email=draft.email,
                rate_limits=draft.rate_limits,
                created_at_us=tx.now_us,
                updated_at_us=tx.now_us,
            )
            customer = await _checked(tx, customer, None)
            if await tx.customers.count(tenant.id, at_most=self._ceilings.customers) >= self._ceilings.customers:
                raise refuse_over(self._ceilings.customers, "customers")
            await tx.customers.insert(tenant.id, customer)
            tx.changed("customer", tenant.id, customer.id)
            shown = Audited(self._secrets).customer(customer)
            await tx.audit.record(actor, action="customer.created", target=customer.id, after=shown)
        return customer

    async def get(self, actor: Actor, customer_id: str) -> Customer:
        """The customer."""
        async with self._database.read() as tx:
            return await _existing(tx, tenant_of(actor), customer_id)

    async def list(
        self, actor: Actor, page: PageRequest, *, query: str | None = None, external_id: str | None = None
    ) -> Page[Customer]:
        """The tenant's customers, newest first."""
        faults = Faults()
        faults.sought(q=query, external_id=external_id)
        faults.raise_any()
        async with self._database.read() as tx:
            if external_id is not None:
                found = await tx.customers.by_external_id(tenant_of(actor), external_id)
                return Page([] if found is None else [found])
            return await tx.customers.page(tenant_of(actor), page, query=query)

    async def update(self, actor: Actor, customer_id: str, changes: CustomerChanges) -> Customer:
        """Changes a customer; new limits act on all of its keys."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            before = await _existing(tx, tenant.id, customer_id)
            after = msgspec.structs.replace(before, updated_at_us=tx.now_us, **given(changes))
            after = await _checked(tx, after, before)
            if is_unchanged(before, after):
                return before
            await tx.customers.replace(tenant.id, after)
            tx.changed("customer", tenant.id, customer_id)
            audited = Audited(self._secrets)
            was, now_is = differing(audited.customer(before), audited.customer(after))
            await tx.audit.record(actor, action="customer.updated", target=customer_id, before=was, after=now_is)
        return after

    async def delete(self, actor: Actor, customer_id: str) -> None:
        """Removes a customer that has no keys. Revoked ones count: their records name it."""
        async with self._database.transaction() as tx:
            tenant = await hold_tenant(tx, actor)
            customer = await _existing(tx, tenant.id, customer_id)
            keys = await tx.keys.of_customer(tenant.id, customer_id)
            if keys:
                raise ProblemError(
                    "conflict",
                    f"The customer {customer_id} has {keys:,} key{'s' * (keys > 1)}, revoked ones included. "
                    "Set customer_id of each to null or to another customer first.",
                )
            await tx.customers.delete(tenant.id, customer_id)
            tx.changed("customer", tenant.id, customer_id)
            shown = Audited(self._secrets).customer(customer)
            await tx.audit.record(actor, action="customer.deleted", target=customer_id, before=shown)


async def _existing(tx: UnitOfWork, tenant_id: str, customer_id: str) -> Customer:
    customer = await tx.customers.get(tenant_id, customer_id)
    if customer is None:
        raise not_found("customer", customer_id)
    return customer


async def _checked(tx: UnitOfWork, customer: Customer, previous: Customer | None) -> Customer:
    faults = Faults()
    faults.text("/name", customer.name)
    if customer.external_id is not None:
        faults.text("/external_id", customer.external_id)
    if customer.email is not None:
        faults.text("/email", customer.email, longest=MAX_EMAIL_CHARACTERS, shortest=3)
        if "@" not in customer.email[1:-1] or " " in customer.email:
            faults.add("/email", "must be an address such as billing@example.com")
    for place, limit in enumerate(customer.rate_limits):
        if is_quota(limit):
            faults.add(f"/rate_limits/{place}", "follows the calendar: quotas belong to keys", "invalid_limit")
    limits = faults.limits(
        "/rate_limits", customer.rate_limits, previous=previous.rate_limits if previous else (), new_id=tx.new_id
    )
    faults.raise_any()
    await _refuse_taken_external_id(tx, customer)
    return msgspec.structs.replace(customer, rate_limits=limits)


async def _refuse_taken_external_id(tx: UnitOfWork, customer: Customer) -> None:
    if customer.external_id is None:
        return
    other = await tx.customers.by_external_id(customer.tenant_id, customer.external_id)
    if other is not None and other.id != customer.id:
        raise ProblemError(
            "conflict",
            f"external_id {customer.external_id!r} is the customer {other.id}'s. Change that one, or give another.",
            faults=[Fault("/external_id", f"is {other.id}'s")],
        )
