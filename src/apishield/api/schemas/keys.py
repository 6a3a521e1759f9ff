"""API keys, their import and their use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, StringConstraints, ValidationError

from apishield.api.problems import invalid
from apishield.api.schemas.common import (
    Changes,
    FaultOut,
    Input,
    Instant,
    Metadata,
    Name,
    Output,
    Timestamp,
    example,
    unchanged,
)
from apishield.api.schemas.limits import (
    LimitIn,
    LimitOut,
    QuotaIn,
    QuotaOut,
    limit_out,
    quota_out,
    quotas,
    rate_limits,
)
from apishield.api.times import optional_rfc3339, to_rfc3339
from apishield.core import records
from apishield.core.key_manager.lifecycle import MAX_GRACE_SECONDS, status
from apishield.core.key_manager.scopes import DEFAULT_SCOPES
from apishield.core.records import Key, KeyKind
from apishield.errors import ProblemError
from apishield.services import key_drafts as service
from apishield.services.checks import MAX_LIMITS, MAX_NETWORKS, MAX_SCOPES
from apishield.services.key_drafts import ImportItem, ImportResult, KeyDraft

MAX_IMPORTED = 1_000

LIMIT_EXAMPLE = {
    "name": "default",
    "strategy": "sliding_window",
    "requests": 1000,
    "window_seconds": 60,
    "unit": "requests",
    "mode": "enforce",
    "on_store_failure": "local",
    "charge_refused": False,
}
QUOTA_EXAMPLE = {
    "name": "monthly_requests",
    "period": "month",
    "limit": 500000,
    "unit": "requests",
    "time_zone": "UTC",
    "mode": "enforce",
    "on_store_failure": "local",
}
KEY_EXAMPLE = {
    "id": "key_06dnd0g2v5v7h3m8k1q0p2r4t6",
    "name": "Production Key",
    "kind": "caller",
    "environment": "live",
    "status": "active",
    "enabled": True,
    "hint": "sk_live_Ab…9Zk2",
    "scopes": ["read", "write"],
    "rate_limits": [LIMIT_EXAMPLE],
    "rate_limit": LIMIT_EXAMPLE,
    "quotas": [QUOTA_EXAMPLE],
    "quota": QUOTA_EXAMPLE,
    "allowed_ips": [],
    "customer_id": None,
    "metadata": {},
    "created_at": "2026-11-23T14:00:00.123456Z",
    "updated_at": "2026-11-23T14:00:00.123456Z",
    "expires_at": None,
    "revoked_at": None,
    "previous_expires_at": None,
    "last_used_at": None,
}
EXAMPLE_SECRET = "sk_live_AbX3nVq8KsTz1Yr7ZmWc2HdLf5JgQe9Zk2"  # noqa: S105  an example, with a wrong checksum


Scopes = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=100)]],
    Field(max_length=MAX_SCOPES, examples=[["read", "write", "orders:*"]]),
]
AllowedIps = Annotated[
    list[Annotated[str, StringConstraints(max_length=64)]],
    Field(max_length=MAX_NETWORKS, examples=[["198.51.100.0/24", "2001:db8::7"]]),
]
RateLimits = Annotated[list[LimitIn], Field(max_length=MAX_LIMITS)]
Environment = Literal["live", "test"]
ObjectId = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class _NewKey(Input):
    """What a key that is made and one that is imported have in common."""

    name: Name
    environment: Environment = "live"
    scopes: Scopes | None = Field(None, description="Default: `read` and `write`. A service key has none.")
    rate_limit: LimitIn | None = Field(None, description="Short for a `rate_limits` of one.")
    rate_limits: RateLimits | None = None
    quota: QuotaIn | None = None
    allowed_ips: AllowedIps = Field([], description="Addresses and networks the key may be used from; none: any.")
    customer_id: ObjectId | None = None
    metadata: Metadata = Field({})
    enabled: bool = True
    expires_at: Instant | None = None

    def draft(self, kind: KeyKind = KeyKind.CALLER) -> KeyDraft:
        """The value inside."""
        default = DEFAULT_SCOPES if kind is KeyKind.CALLER else ()
        return KeyDraft(
            name=self.name,
            kind=kind,
            environment=records.Environment(self.environment),
            customer_id=self.customer_id,
            scopes=default if self.scopes is None else tuple(self.scopes),
            rate_limits=rate_limits(self.rate_limit, self.rate_limits),
            limit_sent_alone=self.rate_limit is not None,
            quotas=quotas(self.quota),
            allowed_ips=tuple(self.allowed_ips),
            metadata=self.metadata,
            enabled=self.enabled,
            expires_at_us=self.expires_at,
        )


class KeyCreate(_NewKey):
    """A new key. `kind` `caller` is for whoever calls your API, `service` for your SDK or gateway."""

    model_config = example(
        {
            "name": "Production Key",
            "scopes": ["read", "write"],
            "rate_limit": {"strategy": "sliding_window", "requests": 1000, "window_seconds": 60},
            "quota": {"monthly_requests": 500000},
        }
    )

    kind: Literal["caller", "service"] = "caller"


class KeyChanges(Changes):
    """What changes of a key. A limit that keeps its name keeps its state."""

    model_config = example({"rate_limit": "2000/minute", "enabled": True})

    name: Name = unchanged()
    scopes: Scopes = unchanged()
    rate_limit: LimitIn | None = unchanged(description="Replaces all rate limits; `null` removes them.")
    rate_limits: RateLimits = unchanged(description="Replaces all rate limits.")
    quota: QuotaIn | None = unchanged(description="Replaces all quotas; `null` removes them.")
    allowed_ips: AllowedIps = unchanged()
    customer_id: ObjectId | None = unchanged()
    metadata: Metadata = unchanged()
    enabled: bool = unchanged()
    expires_at: Instant | None = unchanged()

    def changes(self) -> service.KeyChanges:
        """The value inside."""
        given = self.given()
        alone = given.get("rate_limit") is not None
        if "rate_limit" in given or "rate_limits" in given:
            given["rate_limits"] = rate_limits(given.pop("rate_limit", None), given.get("rate_limits"))
        if "quota" in given:
            given["quotas"] = quotas(given.pop("quota"))
        if "expires_at" in given:
            given["expires_at_us"] = given.pop("expires_at")
        for name in given.keys() & {"scopes", "allowed_ips"}:
            given[name] = tuple(given[name])
        return service.KeyChanges(limit_sent_alone=alone, **given)


class KeyOut(Output):
    """An API key, without its secret."""

    model_config = example(KEY_EXAMPLE)

    id: str
    name: str
    kind: Literal["caller", "service"]
    environment: Environment
    status: Literal["active", "disabled", "revoked", "expired"]
    enabled: bool
    hint: str = Field(description="The first and last characters of the secret, to recognise it by.")
    scopes: list[str]
    rate_limits: list[LimitOut]
    rate_limit: LimitOut | None = Field(description="The first of `rate_limits`.")
    quotas: list[QuotaOut]
    quota: QuotaOut | None = Field(description="The first of `quotas`.")
    allowed_ips: list[str]
    customer_id: str | None
    metadata: Metadata
    created_at: Timestamp
    updated_at: Timestamp
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    previous_expires_at: Timestamp | None = Field(description="Until when the secret before the rotation works.")
    last_used_at: Timestamp | None

    @classmethod
    def of(cls, key: Key, now_us: int) -> KeyOut:
        """How ``key`` is shown."""
        return cls.model_validate(_shown(key, now_us))


class CreatedKeyOut(KeyOut):
    """A key with its secret: shown when it is made and when it is rotated, never again."""

    model_config = example(KEY_EXAMPLE | {"key": EXAMPLE_SECRET})

    key: str = Field(description="The secret. Shown once.")

    @classmethod
    def made(cls, key: Key, secret: str, now_us: int) -> CreatedKeyOut:
        """How a new key is shown."""
        return cls.model_validate(_shown(key, now_us) | {"key": secret})


class KeyRotation(Input):
    """How long the secret before goes on working: never past the key's expiry."""

    model_config = example({"grace_seconds": 3600})

    grace_seconds: int = Field(0, ge=0, le=MAX_GRACE_SECONDS)


class ImportedKey(_NewKey):
    """A key that exists already: its SHA-256 in hexadecimal, or itself (at least 24 characters)."""

    sha256: Annotated[str, StringConstraints(max_length=64)] | None = None
    key: Annotated[str, StringConstraints(max_length=512)] | None = None

    def item(self) -> ImportItem:
        """The value inside."""
        return ImportItem(draft=self.draft(), secret=self.key, sha256=self.sha256)


def _read_item(value: object) -> ImportItem | ImportResult:
    """One item by itself: as what is to be imported, or with what is wrong with it, so that the others go on."""
    try:
        return ImportedKey.model_validate(value).item()
    except ValidationError as error:
        found = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        return ImportResult(faults=invalid(found).faults)
    except ProblemError as problem:
        return ImportResult(faults=problem.faults)


ReadItem = Annotated[ImportItem | ImportResult, PlainValidator(_read_item, json_schema_input_type=ImportedKey)]


class KeyImport(Input):
    """Caller keys from another system."""

    model_config = example(
        {
            "keys": [
                {
                    "name": "Acme",
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                    "rate_limit": "100/minute",
                }
            ]
        }
    )

    keys: list[ReadItem] = Field(min_length=1, max_length=MAX_IMPORTED)


class ImportResultOut(Output):
    """What became of one item: the key, or what was wrong with it."""

    index: int
    id: str | None
    errors: list[FaultOut]


class KeyImportOut(Output):
    """What became of each item, in the order in which they came. A bad item spoils only itself."""

    model_config = example(
        {
            "imported": 1,
            "failed": 1,
            "results": [
                {"index": 0, "id": "key_06dnd0g2v5v7h3m8k1q0p2r4t6", "errors": []},
                {"index": 1, "id": None, "errors": [{"pointer": "/sha256", "message": "the tenant has this key"}]},
            ],
        }
    )

    imported: int
    failed: int
    results: list[ImportResultOut]

    @classmethod
    def of(cls, results: Sequence[ImportResult]) -> KeyImportOut:
        """How the results of an import are shown."""
        shown = [
            ImportResultOut(
                index=index,
                id=None if result.key is None else result.key.id,
                errors=[FaultOut(pointer=fault.pointer, message=fault.message) for fault in result.faults],
            )
            for index, result in enumerate(results)
        ]
        imported = sum(result.id is not None for result in shown)
        return cls(imported=imported, failed=len(shown) - imported, results=shown)


def _shown(key: Key, now_us: int) -> dict[str, Any]:
    limits = [limit_out(limit) for limit in key.rate_limits]
    shown_quotas = [quota_out(limit) for limit in key.quotas]
    return {
        "id": key.id,
        "name": key.name,
        "kind": key.kind.value,
        "environment": key.environment.value,
        "status": status(key, now_us),
        "enabled": key.enabled,
        "hint": key.hint,
        "scopes": list(key.scopes),
        "rate_limits": limits,
        "rate_limit": limits[0] if limits else None,
        "quotas": shown_quotas,
        "quota": shown_quotas[0] if shown_quotas else None,
        "allowed_ips": list(key.allowed_ips),
        "customer_id": key.customer_id,
        "metadata": key.metadata,
        "created_at": to_rfc3339(key.created_at_us),
        "updated_at": to_rfc3339(key.updated_at_us),
        "expires_at": optional_rfc3339(key.expires_at_us),
        "revoked_at": optional_rfc3339(key.revoked_at_us),
        "previous_expires_at": optional_rfc3339(key.previous_expires_at_us),
        "last_used_at": optional_rfc3339(key.last_used_at_us),
    }
