"""Tenants, and what a sign-up answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apishield.api.schemas.common import (
    Changes,
    Input,
    Metadata,
    Name,
    Output,
    PlanName,
    Timestamp,
    TimeZone,
    example,
    unchanged,
)
from apishield.api.schemas.keys import EXAMPLE_SECRET, KEY_EXAMPLE, CreatedKeyOut
from apishield.api.times import to_rfc3339
from apishield.core.records import Tenant

TENANT_EXAMPLE = {
    "id": "ten_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "name": "My App",
    "plan": "starter",
    "status": "active",
    "require_key": False,
    "time_zone": "UTC",
    "metadata": {},
    "created_at": "2026-11-23T14:00:00.123456Z",
    "updated_at": "2026-11-23T14:00:00.123456Z",
}
SERVICE_KEY_EXAMPLE = KEY_EXAMPLE | {
    "key": EXAMPLE_SECRET,
    "name": "First service key",
    "kind": "service",
    "scopes": [],
    "rate_limits": [],
    "rate_limit": None,
    "quotas": [],
    "quota": None,
}


class TenantCreate(Input):
    """A new tenant. At an open sign-up the plan must be one that anybody may choose (`self_serve`)."""

    model_config = example({"name": "My App", "plan": "starter"})

    name: Name
    plan: PlanName = "starter"
    metadata: Metadata = Field({})


class OwnTenantChanges(Changes):
    """What a tenant may change of itself."""

    model_config = example({"name": "My App", "require_key": True})

    name: Name = unchanged()
    require_key: bool = unchanged(description="Whether checks without a key are refused everywhere.")
    time_zone: TimeZone = unchanged(description="Of calendar quotas that name none.")
    metadata: Metadata = unchanged()


class TenantChanges(OwnTenantChanges):
    """What the operator may change of a tenant."""

    model_config = example({"status": "suspended"})

    plan: PlanName = unchanged()
    status: Literal["active", "suspended"] = unchanged()


class TenantOut(Output):
    """A tenant."""

    model_config = example(TENANT_EXAMPLE)

    id: str
    name: str
    plan: str
    status: Literal["active", "suspended", "deleted"]
    require_key: bool
    time_zone: str
    metadata: Metadata
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, tenant: Tenant) -> TenantOut:
        """How ``tenant`` is shown."""
        return cls(**_shown(tenant))


class CreatedTenantOut(TenantOut):
    """A new tenant, with its token and its first key. Both secrets are shown here only."""

    model_config = example(
        TENANT_EXAMPLE
        | {
            "token": "ast_Nq3pV8sKx1Zr7YbT5mWc2HdLf9JgQe0aUoIi4S",
            "token_id": "tok_06dnd0g2v5v7h3m8k1q0p2r4t6",
            "api_key": SERVICE_KEY_EXAMPLE,
        }
    )

    token: str = Field(description="The owner's token, for the control plane. Shown once.")
    token_id: str
    api_key: CreatedKeyOut = Field(description="A service key, for the SDK or the gateway. Shown once.")

    @classmethod
    def made(cls, tenant: Tenant, token_id: str, token_secret: str, api_key: CreatedKeyOut) -> CreatedTenantOut:
        """How a new tenant is shown."""
        return cls(**_shown(tenant), token=token_secret, token_id=token_id, api_key=api_key)


def _shown(tenant: Tenant) -> dict[str, object]:
    return {
        "id": tenant.id,
        "name": tenant.name,
        "plan": tenant.plan,
        "status": tenant.status,
        "require_key": tenant.require_key,
        "time_zone": tenant.time_zone,
        "metadata": tenant.metadata,
        "created_at": to_rfc3339(tenant.created_at_us),
        "updated_at": to_rfc3339(tenant.updated_at_us),
    }
