"""Who may do what: every route declares exactly one permission, and the application does not start where one has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from apishield.core.records import Role

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_ATTRIBUTE = "__apishield_permission__"

_READERS = frozenset({Role.OPERATOR, Role.OWNER, Role.VIEWER})
_WRITERS = frozenset({Role.OPERATOR, Role.OWNER})
_OPERATORS = frozenset({Role.OPERATOR})


@dataclass(frozen=True, slots=True)
class Rule:
    """Which roles hold a permission, and whether it is about one tenant, so that an operator must name it."""

    name: str
    roles: frozenset[Role]
    in_tenant: bool = True
    public: bool = False


class Permission(Enum):
    """All permissions of the control plane."""

    PUBLIC = Rule("public", _READERS, in_tenant=False, public=True)
    SIGN_UP = Rule(
        "sign_up", _OPERATORS, in_tenant=False, public=True
    )  # the service decides whether signing up is open
    TENANTS_MANAGE = Rule("tenants:manage", _OPERATORS, in_tenant=False)
    TENANT_READ = Rule("tenant:read", _READERS)
    TENANT_WRITE = Rule("tenant:write", _WRITERS)
    TOKENS_READ = Rule("tokens:read", _READERS)
    TOKENS_WRITE = Rule("tokens:write", _WRITERS)
    KEYS_READ = Rule("keys:read", _READERS)
    KEYS_WRITE = Rule("keys:write", _WRITERS)
    CUSTOMERS_READ = Rule("customers:read", _READERS)
    CUSTOMERS_WRITE = Rule("customers:write", _WRITERS)
    POLICIES_READ = Rule("policies:read", _READERS)
    POLICIES_WRITE = Rule("policies:write", _WRITERS)
    ENDPOINTS_READ = Rule("endpoints:read", _READERS)
    ENDPOINTS_WRITE = Rule("endpoints:write", _WRITERS)
    BLOCKS_READ = Rule(
        "blocks:read", _READERS, in_tenant=False
    )  # an operator without a tenant: those that hold for all
    BLOCKS_WRITE = Rule("blocks:write", _WRITERS, in_tenant=False)
    ANALYTICS_READ = Rule("analytics:read", _READERS)
    AUDIT_READ = Rule("audit:read", _READERS, in_tenant=False)


def permit(permission: Permission) -> Callable[[Endpoint], Endpoint]:
    """Declares the one permission of an endpoint. Raises ``TypeError`` where it already has one."""

    def declare(endpoint: Endpoint) -> Endpoint:
        if hasattr(endpoint, _ATTRIBUTE):
            raise TypeError(f"{endpoint.__name__} declares two permissions")
        setattr(endpoint, _ATTRIBUTE, permission)
        return endpoint

    return declare


def permission_of(endpoint: Callable[..., Any]) -> Permission | None:
    """What ``permit`` declared, or ``None``."""
    return getattr(endpoint, _ATTRIBUTE, None)
