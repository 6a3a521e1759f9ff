"""Scopes that a handler asks for by itself, on top of what the service checked."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from apishield.core.decision import Decision
from apishield.core.key_manager.scopes import satisfies
from apishield.errors import PROBLEMS, ConfigurationError
from apishield.integrations.protection import RefusedError


def check_scopes(decision: Decision | None, needed: Iterable[str]) -> Decision:
    """The decision, where its key holds all ``needed`` scopes.

    Raises ``RefusedError`` (401 without a key, 403 with one that lacks a scope), ``ConfigurationError`` where no service
    decides. Also while the service can't be asked: then the key is the one that was verified before.
    """
    if decision is None or not (decision.tenant_id or decision.degraded):
        raise ConfigurationError("Scopes need RateLimitMiddleware with apishield_url: it is what verifies keys.")
    if decision.key is None:
        raise _refused(decision, "key_missing", "Send an API key in X-API-Key, or in Authorization: Bearer.")
    for scope in needed:
        if not satisfies(decision.key.scopes, scope):
            raise _refused(decision, "scope_missing", f"This API key lacks the scope {scope!a}.")
    return decision


def _refused(decision: Decision, code: str, message: str) -> RefusedError:
    status = PROBLEMS[code].status
    return RefusedError(msgspec.structs.replace(decision, allowed=False, code=code, status=status, message=message))
