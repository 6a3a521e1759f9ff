"""Which limits apply to a check, compiled once per change, so that a check walks no configuration.

A **meter** is a limit made ready to be asked and rendered. A **policy** contributes one counter to every check that it
matches; what the counter counts by (``per``) is taken from the check's ``Facts``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from apishield.core.counter_keys import counter_key, overflow_key
from apishield.core.endpoints import pattern_subject
from apishield.core.headers import policy_item, quoted, window_seconds
from apishield.core.key_manager.scopes import satisfies
from apishield.core.model import Concurrency, Counter, Limit, Mode
from apishield.core.path_index import PathIndex
from apishield.core.records import Match, Policy


class Facts(msgspec.Struct, gc=False):
    """What is known of a check when its limits are chosen.

    ``ip`` is the address as it is counted (IPv6 by /64), ``endpoint`` what the catalogue's is counted by.
    """

    tenant_id: str
    environment: str
    method: str | None = None
    path: str | None = None
    endpoint: str | None = None
    ip: str | None = None
    key_id: str | None = None
    customer_id: str | None = None
    attributes: Mapping[str, str] | None = None


class Meter:
    """A limit, with the parts of its headers rendered and its place known: which policy, enforced or shadow, what cost."""

    __slots__ = (
        "cost", "limit", "policy_id", "policy_item", "quoted_name", "shadow", "strategy", "takes_slots", "unit",
        "window_seconds",
    )  # fmt: skip

    def __init__(self, limit: Limit, *, policy_id: str | None = None, cost: int = 1) -> None:
        self.limit = limit
        self.policy_id = policy_id
        self.cost = cost
        self.shadow = limit.mode is Mode.SHADOW
        self.unit = limit.unit
        self.takes_slots = isinstance(limit.algorithm, Concurrency)
        self.strategy = str(limit.algorithm.__struct_config__.tag)
        self.window_seconds = window_seconds(limit)
        self.quoted_name = quoted(limit.name)
        self.policy_item = policy_item(limit)


class CompiledPolicy:
    """A policy, ready to say which counter it asks about a check that it matches."""

    __slots__ = ("match", "meter", "per", "policy")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.match = policy.match
        self.per = policy.per
        limit = policy.limit if policy.mode is Mode.ENFORCE else msgspec.structs.replace(policy.limit, mode=Mode.SHADOW)
        self.meter = Meter(limit, policy_id=policy.id, cost=policy.cost)

    def counter(self, facts: Facts) -> Counter | None:
        """The counter for a check that matches; ``None`` where a part of what it counts by is unknown: it does not apply."""
        subject: dict[str, str] = {}
        for part in self.per:
            value = self._part(part, facts)
            if value is None:
                return None
            subject[part] = value
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
                return facts.endpoint or pattern_subject(facts.method, self.match.path)
        return facts.attributes.get(part.removeprefix("attr:")) if facts.attributes else None


class Selection:
    """The policies of one kind of caller, found by what a check asks for and not walked one by one."""

    __slots__ = ("_attributes", "_methods", "_paths", "is_empty")

    def __init__(self, policies: Iterable[CompiledPolicy]) -> None:
        self._methods: dict[str | None, list[CompiledPolicy]] = {}
        self._paths: dict[str | None, PathIndex[CompiledPolicy]] = {}
        self._attributes: dict[tuple[str, str], list[CompiledPolicy]] = {}
        self.is_empty = True
        for policy in policies:
            self.is_empty = False
            match = policy.match
            for method in match.methods or (None,):
                if match.path is not None:
                    self._paths.setdefault(method, PathIndex()).add(match.path, policy)
                elif match.attributes:
                    first = next(iter(match.attributes.items()))
                    self._attributes.setdefault(first, []).append(policy)
                    break
                else:
                    self._methods.setdefault(method, []).append(policy)

    def matching(self, facts: Facts) -> list[CompiledPolicy]:
        """The policies that match a check, in the order of their ids."""
        method, path = facts.method, facts.path
        found = [*self._methods.get(None, ())]
        if method is not None:
            found += self._methods.get(method, ())
        if path is not None and self._paths:
            for index in (self._paths.get(None), self._paths.get(method) if method is not None else None):
                if index is not None:
                    found += [policy for policy in index.find(path) if _attributes_match(policy.match, facts)]
        if facts.attributes and self._attributes:
            for attribute in facts.attributes.items():
                found += [
                    policy
                    for policy in self._attributes.get(attribute, ())
                    if _attributes_match(policy.match, facts)
                    and (not policy.match.methods or method in policy.match.methods)
                ]
        if len(found) > 1:
            found.sort(key=_id_of)
        return found


class PolicyPlan:
    """The enabled policies of a tenant on ``plan``, compiled once per change; selections are made when first asked for."""

    __slots__ = ("_policies", "_selections")

    def __init__(self, plan: str, policies: Iterable[Policy]) -> None:
        self._policies = [
            CompiledPolicy(policy) for policy in policies if policy.enabled and policy.match.plan in {None, plan}
        ]
        self._selections: dict[tuple[bool, str, tuple[str, ...]], Selection] = {}

    def selection(self, *, has_key: bool, environment: str, scopes: tuple[str, ...]) -> Selection:
        """The policies for callers of this kind."""
        kind = (has_key, environment, scopes)
        selection = self._selections.get(kind)
        if selection is None:
            if len(self._selections) >= _MOST_SELECTIONS:
                self._selections.clear()
            selection = self._selections[kind] = Selection(
                policy for policy in self._policies if _is_for(policy.match, has_key, environment, scopes)
            )
        return selection


_MOST_SELECTIONS = 1024


def _is_for(match: Match, has_key: bool, environment: str, scopes: tuple[str, ...]) -> bool:
    return (
        (match.caller == "any" or (match.caller == "key") == has_key)
        and match.environment in {None, environment}
        and all(satisfies(scopes, scope) for scope in match.scopes)
    )


def _attributes_match(match: Match, facts: Facts) -> bool:
    given = facts.attributes or {}
    return all(given.get(name) == value for name, value in match.attributes.items())


def _id_of(policy: CompiledPolicy) -> str:
    return policy.policy.id
