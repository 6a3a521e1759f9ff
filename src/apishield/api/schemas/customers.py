"""Customers: whom a tenant sells its API to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from apishield.api.schemas.common import Changes, Input, Name, Output, Timestamp, example, unchanged
from apishield.api.schemas.keys import LIMIT_EXAMPLE, RateLimits
from apishield.api.schemas.limits import LimitOut, limit_out, rate_limits
from apishield.api.times import to_rfc3339
from apishield.core.records import Customer
from apishield.services import customers as service

ExternalId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Email = Annotated[str, StringConstraints(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]


class CustomerCreate(Input):
    """A new customer. Its limits are shared by all of its keys."""

    model_config = example(
        {"name": "Acme", "external_id": "crm-4711", "email": "api@acme.example", "rate_limits": ["5000/minute"]}
    )

    name: Name
    external_id: ExternalId | None = Field(None, description="Its id in your system; unique within the tenant.")
    email: Email | None = None
    rate_limits: RateLimits = Field([])

    def draft(self) -> service.CustomerDraft:
        """The value inside."""
        return service.CustomerDraft(
            name=self.name,
            external_id=self.external_id,
            email=self.email,
            rate_limits=rate_limits(None, self.rate_limits),
        )


class CustomerChanges(Changes):
    """What changes of a customer."""

    model_config = example({"email": "dev@acme.example"})

    name: Name = unchanged()
    external_id: ExternalId | None = unchanged()
    email: Email | None = unchanged()
    rate_limits: RateLimits = unchanged()

    def changes(self) -> service.CustomerChanges:
        """The value inside."""
        given = self.given()
        if "rate_limits" in given:
            given["rate_limits"] = rate_limits(None, self.rate_limits)
        return service.CustomerChanges(**given)


class CustomerOut(Output):
    """A customer."""

    model_config = example(
        {
            "id": "cus_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "name": "Acme",
            "external_id": "crm-4711",
            "email": "api@acme.example",
            "rate_limits": [LIMIT_EXAMPLE],
            "created_at": "2026-11-23T14:00:00.123456Z",
            "updated_at": "2026-11-23T14:00:00.123456Z",
        }
    )

    id: str
    name: str
    external_id: str | None
    email: str | None
    rate_limits: list[LimitOut]
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, customer: Customer) -> CustomerOut:
        """How ``customer`` is shown."""
        return cls.model_validate(
            {
                "id": customer.id,
                "name": customer.name,
                "external_id": customer.external_id,
                "email": customer.email,
                "rate_limits": [limit_out(limit) for limit in customer.rate_limits],
                "created_at": to_rfc3339(customer.created_at_us),
                "updated_at": to_rfc3339(customer.updated_at_us),
            }
        )
