"""Which limits apply to a check, compiled once per change, so that a check walks no configuration.

A **meter** is a limit made ready to be asked and rendered. A **policy** contributes one counter to every check that it
matches; what the counter counts by (``per``) is taken from the check's ``Facts``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from apishield.core.counter_keys import counter_key, overflow_key
from apishield.core.headers import policy_item, quoted, window_seconds
from apishield.core.key_manager.scopes import satisfies
from apishield.core.model import Counter, Limit, Mode
from apishield.core.records import Match, Policy

ANY_ENDPOINT = "*"


class Facts(msgspec.Struct, gc=False):
    """What is known of a check when its limits are chosen. ``ip`` is the address as it is counted (IPv6 by /64)."""

    tenant_id: str
    plan: str
    environment: str
    method: str | None = None
    path: str | None = None
    ip: str | None = None
    key_id: str | None = None
    customer_id: str | None = None
    scopes: tuple[str, ...] = ()
    attributes: Mapping[str, str] | None = None


class Meter:
    """A limit, with the parts of its headers rendered and its place known: which policy, enforced or shadow, what cost."""

    __slots__ = (
        "cost", "limit", "policy_id", "policy_item", "quoted_name", "shadow", "strategy", "unit", "window_seconds",
    )  # fmt: skip

    def __init__(self, limit: Limit, *, policy_id: str | None = None, cost: int = 1) -> None:
        self.limit = limit
        self.policy_id = policy_id
        self.cost = cost
        self.shadow = limit.mode is Mode.SHADOW
        self.unit = limit.unit
        self.strategy = str(limit.algorithm.__struct_config__.tag)
        self.window_seconds = window_seconds(limit)
        self.quoted_name = quoted(limit.name)
        self.policy_item = policy_item(limit)


class CompiledPolicy:
    """A policy, ready to say of a check whether it applies, and which counter it then asks."""

    __slots__ = ("match", "meter", "path", "per", "policy")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.match = policy.match
        self.per = policy.per
        self.path = path_pattern(policy.match.path) if policy.match.path is not None else None
        limit = policy.limit if policy.mode is Mode.ENFORCE else msgspec.structs.replace(policy.limit, mode=Mode.SHADOW)
        self.meter = Meter(limit, policy_id=policy.id, cost=policy.cost)

    def applies(self, facts: Facts) -> bool:
        """Whether the policy matches the check."""
        match = self.match
        return (
            _caller_matches(match, facts)
            and (not match.methods or facts.method in match.methods)
            and (self.path is None or (facts.path is not None and self.path.fullmatch(facts.path) is not None))
            and (match.plan is None or match.plan == facts.plan)
            and (match.environment is None or match.environment == facts.environment)
            and (not match.scopes or all(satisfies(facts.scopes, scope) for scope in match.scopes))
            and (not match.attributes or _attributes_match(match.attributes, facts.attributes))
        )

    def subject(self, facts: Facts) -> dict[str, str] | None:
        """What the policy counts this check by, or ``None`` where a part of it is unknown: it then does not apply."""
        subject: dict[str, str] = {}
        for part in self.per:
            value = self._part(part, facts)
            if value is None:
                return None
            subject[part] = value
        return subject

    def counter(self, facts: Facts) -> Counter | None:
        """The counter that the policy asks about this check, or ``None`` where it does not apply."""
        if not self.applies(facts):
            return None
        subject = self.subject(facts)
        if subject is None:
            return None
        limit = self.meter.limit
        return Counter(
            counter_key(facts.tenant_id, facts.environment, limit, subject),
            limit,
            self.meter.policy_id,
            # Strangers can invent subjects without end: where a store is full, their new ones share a counter.
            overflow_key(facts.tenant_id, facts.environment, limit) if facts.key_id is None else None,
        )

    def _part(self, part: str, facts: Facts) -> str | None:
        match part:
            case "ip":
                return facts.ip
            case "key":
                return facts.key_id
            case "customer":
                return facts.customer_id
            case "tenant":
                return facts.tenant_id
            case "endpoint":  # never the raw path: that would be a counter for every id
                return f"{facts.method or '*'} {self.match.path or ANY_ENDPOINT}"
        return facts.attributes.get(part.removeprefix("attr:")) if facts.attributes else None


class PolicyPlan:
    """The enabled policies of a tenant, apart for callers with and without a key."""

    __slots__ = ("for_anonymous", "for_keys")

    def __init__(self, policies: Iterable[Policy]) -> None:
        enabled = [CompiledPolicy(policy) for policy in sorted(policies, key=lambda each: each.id) if policy.enabled]
        self.for_keys = tuple(policy for policy in enabled if policy.match.caller != "anonymous")
        self.for_anonymous = tuple(policy for policy in enabled if policy.match.caller != "key")


def path_pattern(pattern: str) -> re.Pattern[str]:
    """Compiles a path pattern: ``{name}`` is one segment, ``*`` anything within one, and at the end anything at all."""
    open_end = pattern.endswith("*")
    body = pattern.rstrip("*") if open_end else pattern
    parts = re.split(r"(\{[^/{}]+\}|\*)", body)
    expression = "".join(
        "[^/]+" if part.startswith("{") else "[^/]*" if part == "*" else re.escape(part) for part in parts
    )
    return re.compile(expression + (".*" if open_end else ""), re.DOTALL)


def _caller_matches(match: Match, facts: Facts) -> bool:
    return match.caller == "any" or (match.caller == "key") == (facts.key_id is not None)


def _attributes_match(wanted: Mapping[str, str], given: Mapping[str, str] | None) -> bool:
    return given is not None and all(given.get(name) == value for name, value in wanted.items())
