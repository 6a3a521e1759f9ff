"""What the audit log shows of each thing: listed fields, never a secret; metadata and addresses of people as digests.

The log can't be erased, so what may be asked to be forgotten is in it only as a keyed digest, which tells that it changed.
"""

from __future__ import annotations

import hmac
from typing import Any

import msgspec

from apishield.core.records import Block, Customer, Endpoint, Key, Policy, Tenant, Token
from apishield.services.secrets import Secrets

Fields = dict[str, Any]

_DIGEST_BYTES = 16


class Audited:
    """Makes the fields of audit entries."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def tenant(self, tenant: Tenant) -> Fields:
        """Of a tenant."""
        shown = _pick(tenant, "name", "plan", "status", "require_key", "time_zone")
        return shown | {"metadata": self.digest(tenant.metadata)}

    def token(self, token: Token) -> Fields:
        """Of a token."""
        return _pick(token, "name", "role", "hint", "expires_at_us", "revoked_at_us")

    def key(self, key: Key) -> Fields:
        """Of a key."""
        shown = _pick(
            key, "name", "kind", "environment", "customer_id", "scopes", "rate_limits", "quotas", "allowed_ips",
            "enabled", "hint", "expires_at_us", "revoked_at_us", "previous_expires_at_us",
        )  # fmt: skip
        return shown | {"metadata": self.digest(key.metadata)}

    def customer(self, customer: Customer) -> Fields:
        """Of a customer."""
        shown = _pick(customer, "name", "external_id", "rate_limits")
        return shown | {"email": self.digest(customer.email)}

    def policy(self, policy: Policy) -> Fields:
        """Of a policy. Overrides may be thousands and name people, so they appear as their number and a digest."""
        shown = _pick(policy, "name", "match", "per", "limit", "cost", "mode", "enabled")
        return shown | {"overrides": len(policy.overrides), "overrides_digest": self.digest(policy.overrides)}

    def endpoint(self, endpoint: Endpoint) -> Fields:
        """Of an endpoint."""
        return _pick(endpoint, "method", "path", "required_scopes", "cost", "login")

    def block(self, block: Block) -> Fields:
        """Of a block or an allow."""
        return _pick(block, "action", "kind", "value", "reason", "source", "rule", "expires_at_us")

    def digest(self, value: object) -> str | None:
        """A keyed digest: equal for equal values, and of no use to whoever guesses; ``None`` for nothing."""
        if not value:
            return None
        message = msgspec.json.encode(value, order="deterministic")
        mac = hmac.digest(self._secrets.derive("audit digest"), message, "sha256")
        return f"{self._secrets.current_version}:{mac[:_DIGEST_BYTES].hex()}"


def _pick(record: msgspec.Struct, *names: str) -> Fields:
    return {name: msgspec.to_builtins(getattr(record, name)) for name in names}
