"""The things that a tenant owns, as the services and stores pass them around. Secrets are never among them.

Times are microseconds since the Unix epoch; ``None`` means never.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

from apishield.core.model import Limit, Mode

Metadata = dict[str, Any]


class Role(StrEnum):
    """What a credential may do."""

    OPERATOR = "operator"  # runs the service
    OWNER = "owner"  # changes everything of one tenant
    VIEWER = "viewer"  # reads one tenant
    SERVICE = "service"  # a service key: the data plane of one tenant, nothing else


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asking. ``tenant_id`` is ``None`` only for an operator who named no tenant, and at an open signup."""

    id: str
    role: Role | None
    tenant_id: str | None
    address: str | None = None
    request_id: str | None = None
    expires_at_us: int | None = None


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """An account that owns keys, policies and traffic."""

    id: str
    name: str
    plan: str
    status: Literal["active", "suspended", "deleted"] = "active"
    require_key: bool = False
    time_zone: str = "UTC"
    metadata: Metadata = {}
    created_at_us: int
    updated_at_us: int


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A credential for the control plane."""

    id: str
    tenant_id: str
    name: str
    role: Role
    hint: str
    created_at_us: int
    expires_at_us: int | None = None
    revoked_at_us: int | None = None
    last_used_at_us: int | None = None


class KeyKind(StrEnum):
    """Caller keys go to whoever calls the tenant's API; service keys to SDKs and gateways."""

    CALLER = "caller"
    SERVICE = "service"


class Environment(StrEnum):
    """Test keys have their own counters and are never billed."""

    LIVE = "live"
    TEST = "test"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its secret. ``quotas`` are limits whose algorithm is ``Quota``."""

    id: str
    tenant_id: str
    name: str
    kind: KeyKind = KeyKind.CALLER
    environment: Environment = Environment.LIVE
    customer_id: str | None = None
    scopes: tuple[str, ...] = ()
    rate_limits: tuple[Limit, ...] = ()
    quotas: tuple[Limit, ...] = ()
    allowed_ips: tuple[str, ...] = ()
    metadata: Metadata = {}
    enabled: bool = True
    hint: str
    created_at_us: int
    updated_at_us: int
    expires_at_us: int | None = None
    revoked_at_us: int | None = None
    previous_expires_at_us: int | None = None
    last_used_at_us: int | None = None


class SecretHash(msgspec.Struct, frozen=True):
    """A stored secret of a key or token: HMAC(pepper, SHA-256(secret)). ``expires_at_us`` ends a rotated one's grace."""

    owner_id: str
    digest: bytes
    pepper_version: int
    expires_at_us: int | None = None


class Customer(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a tenant sells its API to; ``rate_limits`` are shared by all of the customer's keys."""

    id: str
    tenant_id: str
    name: str
    external_id: str | None = None
    email: str | None = None
    rate_limits: tuple[Limit, ...] = ()
    created_at_us: int
    updated_at_us: int


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """Which checks a policy applies to; an empty field matches all."""

    methods: tuple[str, ...] = ()
    path: str | None = None
    caller: Literal["key", "anonymous", "any"] = "any"
    scopes: tuple[str, ...] = ()
    plan: str | None = None
    environment: Environment | None = None
    attributes: dict[str, str] = {}


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """Another limit for one subject of a policy."""

    subject: dict[str, str]
    limit: Limit
    expires_at_us: int | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A limit, whom it applies to (``match``) and what it counts by (``per``)."""

    id: str
    tenant_id: str
    name: str
    match: Match = Match()
    per: tuple[str, ...]
    limit: Limit
    cost: int = 1
    mode: Mode = Mode.ENFORCE
    enabled: bool = True
    overrides: tuple[Override, ...] = ()
    created_at_us: int
    updated_at_us: int


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the tenant's API: ``method`` (``*`` for any) and a path pattern, whose ``shape`` has no names in it.

    ``required_scopes`` of ``None`` leaves it to the method's default scope; an empty tuple asks for none. ``cost`` is what
    a check costs that says nothing of it, in requests or in units by name. ``login`` marks where callers give passwords.
    """

    id: str
    tenant_id: str
    method: str
    path: str
    shape: str
    required_scopes: tuple[str, ...] | None = None
    cost: int | dict[str, int] = 1
    login: bool = False
    created_at_us: int
    updated_at_us: int


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """An address, prefix, key, country or network that is refused (``block``) or spared the abuse steps (``allow``).

    ``tenant_id`` is ``None`` for the operator's own, which hold for every tenant and which no allow lifts.
    ``value`` is normalised: an address or CIDR as ``ipaddress`` writes it, a key id, an ISO 3166 code, an AS number.
    """

    id: str
    tenant_id: str | None
    action: Literal["block", "allow"]
    kind: Literal["ip", "cidr", "key_id", "country", "asn"]
    value: str
    reason: str = ""
    source: Literal["manual", "auto"] = "manual"
    rule: str | None = None
    created_at_us: int
    expires_at_us: int | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the control plane: who, what, before and after without secrets, from where; chained by ``mac``."""

    id: str
    tenant_id: str
    sequence: int
    at_us: int
    actor: str
    action: str
    target: str
    before: Metadata | None
    after: Metadata | None
    address: str | None
    request_id: str | None
    previous_mac: str
    mac: str
