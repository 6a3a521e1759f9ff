"""The tables. A change here needs a migration; a test holds both equal.

Times are microseconds since the Unix epoch, ids are texts (``core.ids``). Every table of a tenant's things has a unique
``(tenant_id, id)``, which foreign keys between them use, so that no row can point into another tenant.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from apishield.core.model import Limit, Mode
from apishield.core.records import Environment, KeyKind, Match, Override, Policy, Role
from apishield.core.replay_report import ReplayReport
from apishield.stores.sql.ledger import tables as ledger
from apishield.stores.sql.schema import metadata
from apishield.stores.sql.types import Choice, Document, Microseconds

__all__ = ["ledger", "metadata"]  # the ledger's tables are in the same catalogue


def _time(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, Microseconds, nullable=nullable)


def _tenant(*, nullable: bool = False) -> Column[Any]:
    return Column("tenant_id", Text, ForeignKey("tenants.id"), nullable=nullable)


tenants = Table(
    "tenants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("require_key", Boolean, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("metadata", Document(dict[str, Any]), nullable=False),
    _time("created_at_us"),
    _time("updated_at_us"),
    CheckConstraint("status IN ('active', 'suspended', 'deleted')", name="status"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    _tenant(),
    Column("name", Text, nullable=False),
    Column("role", Choice(Role), nullable=False),
    Column("hint", Text, nullable=False),
    _time("created_at_us"),
    _time("expires_at_us", nullable=True),
    _time("revoked_at_us", nullable=True),
    _time("last_used_at_us", nullable=True),
    UniqueConstraint("tenant_id", "id"),
)

customers = Table(
    "customers",
    metadata,
    Column("id", Text, primary_key=True),
    _tenant(),
    Column("name", Text, nullable=False),
    Column("external_id", Text),
    Column("email", Text),
    Column("rate_limits", Document(tuple[Limit, ...]), nullable=False),
    _time("created_at_us"),
    _time("updated_at_us"),
    UniqueConstraint("tenant_id", "id"),
    UniqueConstraint("tenant_id", "external_id"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    _tenant(),
    Column("name", Text, nullable=False),
    Column("kind", Choice(KeyKind), nullable=False),
    Column("environment", Choice(Environment), nullable=False),
    Column("customer_id", Text),
    Column("scopes", Document(tuple[str, ...]), nullable=False),
    Column("rate_limits", Document(tuple[Limit, ...]), nullable=False),
    Column("quotas", Document(tuple[Limit, ...]), nullable=False),
    Column("allowed_ips", Document(tuple[str, ...]), nullable=False),
    Column("metadata", Document(dict[str, Any]), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("hint", Text, nullable=False),
    _time("created_at_us"),
    _time("updated_at_us"),
    _time("expires_at_us", nullable=True),
    _time("revoked_at_us", nullable=True),
    _time("previous_expires_at_us", nullable=True),
    _time("last_used_at_us", nullable=True),
    UniqueConstraint("tenant_id", "id"),
    ForeignKeyConstraint(["tenant_id", "customer_id"], ["customers.tenant_id", "customers.id"]),
    Index(None, "tenant_id", "customer_id"),
)

secrets = Table(
    "secrets",
    metadata,
    _tenant(),
    Column("digest", LargeBinary, nullable=False),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("pepper_version", Integer, nullable=False),
    _time("expires_at_us", nullable=True),
    _time("created_at_us"),
    PrimaryKeyConstraint("tenant_id", "digest"),
    Index(None, "owner_kind", "owner_id"),
    CheckConstraint("owner_kind IN ('key', 'token')", name="owner_kind"),
)

policies = Table(
    "policies",
    metadata,
    Column("id", Text, primary_key=True),
    _tenant(),
    Column("name", Text, nullable=False),
    Column("match", Document(Match), nullable=False),
    Column("per", Document(tuple[str, ...]), nullable=False),
    Column("limit", Document(Limit), nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("mode", Choice(Mode), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("overrides", Document(tuple[Override, ...]), nullable=False),
    _time("created_at_us"),
    _time("updated_at_us"),
    UniqueConstraint("tenant_id", "id"),
    UniqueConstraint("tenant_id", "name"),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    _tenant(),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("shape", Text, nullable=False),
    Column("required_scopes", Document(tuple[str, ...])),
    Column("cost", Document(int | dict[str, int]), nullable=False),
    Column("login", Boolean, nullable=False),
    _time("created_at_us"),
    _time("updated_at_us"),
    UniqueConstraint("tenant_id", "id"),
    UniqueConstraint("tenant_id", "method", "shape"),
)

blocks = Table(
    "blocks",
    metadata,
    Column("id", Text, primary_key=True),
    _tenant(nullable=True),  # NULL: the operator's, for every tenant
    Column("action", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("rule", Text),
    _time("created_at_us"),
    _time("expires_at_us", nullable=True),
    UniqueConstraint("tenant_id", "action", "kind", "value"),
    Index(None, "tenant_id", "id"),
    CheckConstraint("action IN ('block', 'allow')", name="action"),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("tenant_id", Text, nullable=False),  # or the service's own chain; entries outlive their tenant
    Column("sequence", BigInteger, nullable=False, autoincrement=False),
    Column("id", Text, nullable=False),
    _time("at_us"),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("before", Document(dict[str, Any])),
    Column("after", Document(dict[str, Any])),
    Column("address", Text),
    Column("request_id", Text),
    Column("previous_mac", Text, nullable=False),
    Column("mac", Text, nullable=False),
    PrimaryKeyConstraint("tenant_id", "sequence"),
    Index(None, "tenant_id", "target", "sequence"),
    Index(None, "tenant_id", "actor", "sequence"),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("mac", Text, nullable=False),
    Column("seal", Text, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant_id", Text, nullable=False),  # empty: an operator who named none
    Column("credential_id", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("key_digest", LargeBinary, nullable=False),
    Column("request_digest", LargeBinary, nullable=False),
    Column("answer", LargeBinary),  # NULL: not answered yet
    _time("created_at_us"),
    _time("expires_at_us"),
    PrimaryKeyConstraint("tenant_id", "credential_id", "route", "key_digest"),
    Index(None, "expires_at_us"),
)

changes = Table(
    "changes",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant_id", Text),
    Column("kind", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    _time("at_us"),
)

change_counter = Table(
    "change_counter",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("pruned_through", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

usage_period = Table(
    "usage_period",
    metadata,
    Column("counter_key", Text, nullable=False),
    _time("period_start_us"),
    Column("used", BigInteger, nullable=False),
    _time("at_us"),
    PrimaryKeyConstraint("counter_key", "period_start_us"),
    Index(None, "period_start_us"),
)

shadow_day = Table(
    "shadow_day",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("policy_id", Text, nullable=False),
    Column("day", Text, nullable=False),  # 2026-11-23, UTC
    _time("since_us"),
    Column("would_refuse", BigInteger, nullable=False),
    Column("admitted", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "policy_id", "day"),
    Index(None, "day"),
)

shadow_subjects = Table(
    "shadow_subjects",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("policy_id", Text, nullable=False),
    Column("day", Text, nullable=False),
    Column("subject", Text, nullable=False),  # as the counter's key has it
    Column("would_refuse", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "policy_id", "day", "subject"),
    Index(None, "day"),
)

replays = Table(
    "replays",
    metadata,
    Column("id", Text, primary_key=True),
    _tenant(),
    Column("status", Text, nullable=False),
    Column("policy", Document(Policy), nullable=False),  # as it was replayed
    _time("from_us"),
    _time("to_us"),
    _time("covered_from_us"),
    _time("covered_to_us"),
    _time("warm_from_us"),
    _time("position_us"),
    Column("only_counted", Document(dict[str, int]), nullable=False),
    Column("report", Document(ReplayReport)),
    Column("error", Text),
    _time("created_at_us"),
    _time("updated_at_us"),
    UniqueConstraint("tenant_id", "id"),
    Index(None, "created_at_us"),
    CheckConstraint("status IN ('running', 'done', 'failed', 'cancelled')", name="status"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Text, primary_key=True),
    _time("started_at_us"),
    _time("seen_at_us"),
)

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
