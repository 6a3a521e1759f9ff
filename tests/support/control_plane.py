"""The services of the control plane over a database, and people who use them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from apishield.core.model import SECOND_US, Limit, Quota, SlidingWindow
from apishield.core.records import Actor, Role
from apishield.services.audit import AuditService
from apishield.services.base import Ceilings
from apishield.services.blocks import BlockService
from apishield.services.customers import CustomerService
from apishield.services.endpoints import EndpointService
from apishield.services.idempotency import IdempotencyService
from apishield.services.keys import KeyService
from apishield.services.policies import PolicyService
from apishield.services.secrets import Secrets
from apishield.services.tenants import TenantService
from apishield.services.tokens import TokenService
from apishield.stores.sql.database import Database
from apishield.stores.sql.pagination import PageRequest
from tests.support.clock import ManualClock
from tests.support.database import SECRETS

OPERATOR = Actor(id="operator", role=Role.OPERATOR, tenant_id=None)
FIRST_PAGE = PageRequest(100)


def rate(requests: int, name: str = "default", *, seconds: int = 60) -> Limit:
    """A rate limit without an id."""
    return Limit(id="", name=name, algorithm=SlidingWindow(requests, seconds * SECOND_US))


def quota(requests: int, name: str = "monthly") -> Limit:
    """A monthly quota without an id."""
    return Limit(id="", name=name, algorithm=Quota(requests))


@dataclass
class ControlPlane:
    """The services over one database."""

    database: Database
    clock: ManualClock
    secrets: Secrets = SECRETS
    ceilings: Ceilings = field(default_factory=Ceilings)

    def __post_init__(self) -> None:
        parts = (self.database, self.secrets)
        self.tenants = TenantService(*parts, ceilings=self.ceilings)
        self.tokens = TokenService(*parts, ceilings=self.ceilings)
        self.keys = KeyService(*parts, ceilings=self.ceilings)
        self.customers = CustomerService(*parts, ceilings=self.ceilings)
        self.policies = PolicyService(*parts, ceilings=self.ceilings)
        self.endpoints = EndpointService(*parts, ceilings=self.ceilings)
        self.blocks = BlockService(*parts, ceilings=self.ceilings)
        self.audit = AuditService(*parts)
        self.idempotency = IdempotencyService(*parts)

    async def owner(self, name: str = "My App") -> Actor:
        """Signs a tenant up; returns its owner."""
        created = await self.tenants.create(OPERATOR, name=name)
        return Actor(id=created.token.id, role=Role.OWNER, tenant_id=created.tenant.id, address="192.0.2.1")

    async def actions(self, actor: Actor) -> list[str]:
        """What the actor's audit log says was done, oldest first."""
        return [entry.action for entry in reversed((await self.audit.list(actor, FIRST_PAGE)).items)]


@pytest.fixture
def plane(database: Database, clock: ManualClock) -> ControlPlane:
    """The control plane on both databases."""
    return ControlPlane(database, clock)
