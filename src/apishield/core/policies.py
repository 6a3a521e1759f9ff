"""Which limits apply to a check, compiled once per change, so that a check walks no configuration.

A **meter** is a limit made ready to be asked and rendered. A **policy** contributes one counter to every check that it
matches; what the counter counts by (``per``) is taken from the check's ``Facts``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from apishield.core.counter_keys import limit_keys, text_of
from apishield.core.decision import LimitState, in_json, inside_json
from apishield.core.endpoints import pattern_subject
from apishield.core.headers import policy_item, quoted, window_seconds
from apishield.core.key_manager.scopes import satisfies
from apishield.core.model import Concurrency, Counter, Limit, Mode
from apishield.core.path_index import PathIndex
from apishield.core.records import Match, Override, Policy

ANYTHING = "*"
"""The value of a part of an override's subject that may be anything."""


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
    """A limit, with the parts of its headers rendered and its place known: which policy, enforced or shadow, what cost.

    What never changes of a limit is taken out of it here, once, and not for every check that is rendered.
    """

    __slots__ = (
        "ceiling", "ceiling_text", "cost", "json", "limit", "name", "policy_id", "policy_item", "quoted_name", "shadow",
        "strategy", "takes_slots", "unit", "window_seconds",
    )  # fmt: skip

    def __init__(self, limit: Limit, *, policy_id: str | None = None, cost: int = 1) -> None:
        self.limit = limit
        self.policy_id = policy_id
        self.cost = cost
        self.shadow = limit.mode is Mode.SHADOW
        self.name = limit.name
        self.unit = limit.unit
        self.ceiling = limit.algorithm.ceiling
        self.ceiling_text = str(self.ceiling)
        self.takes_slots = isinstance(limit.algorithm, Concurrency)
        self.strategy = str(limit.algorithm.__struct_config__.tag)
        self.window_seconds = window_seconds(limit)
        self.quoted_name = quoted(limit.name)
        self.policy_item = policy_item(limit)
        self.json = JsonParts.of(self)


class JsonParts(msgspec.Struct, frozen=True, gc=False):
    """What never changes of a limit in the JSON of a decision.

    Of its ``LimitState``: what stands before the number that remains, between that and the seconds until the reset, and behind
    them where the limit is kept, and where it is violated. Of its headers: its item of the policy, and what stands before the
    number that remains.
    """

    before: str
    between: str
    kept: str
    violated: str
    policy_item: str
    standing: str

    @classmethod
    def of(cls, meter: Meter) -> JsonParts:
        """Those of ``meter``, cut out of what an encoder writes."""
        state = LimitState(
            meter.name, meter.policy_id, meter.strategy, meter.unit, meter.ceiling, 0, meter.window_seconds, 0.0, True
        )
        before, remaining, rest = in_json(state).partition('"remaining":0')  # not in a text, where quotes are escaped
        between, reset, behind = rest.partition('"reset_seconds":0.0')
        return cls(
            before + remaining[:-1],
            between + reset[:-3],
            behind.replace("true", "false"),
            behind,
            inside_json(meter.policy_item),
            inside_json(f"{meter.quoted_name};r="),
        )


class CompiledPolicy:
    """A policy, ready to say which counter it asks about a check that it matches, and with what meter."""

    __slots__ = ("_parts", "_tables", "match", "meter", "policy")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.match = policy.match
        self.meter = self._meter(policy.limit)
        self._parts = tuple((part, _reader(part, policy.match.path)) for part in policy.per)
        self._tables = _tables(policy)

    def ask(self, facts: Facts, now_us: int) -> tuple[Counter, Meter] | None:
        """The counter of a check that matches; ``None`` where a part of what it counts by is unknown: it does not apply."""
        subject: dict[str, str] = {}
        for part, read in self._parts:
            value = read(facts)
            if value is None:
                return None
            subject[part] = value
        meter = self._meter_of(subject, now_us) if self._tables else self.meter
        limit = meter.limit
        keys = limit_keys(facts.tenant_id, facts.environment, limit)
        # Strangers can invent subjects without end: where a store is full, their new ones share a counter.
        overflow_key = keys.overflow if facts.key_id is None else None
        return Counter(keys.prefix + text_of(subject), limit, meter.policy_id, overflow_key), meter

    def _meter_of(self, subject: Mapping[str, str], now_us: int) -> Meter:
        """The subject's own meter where an override names it: exact before wildcard before the policy's."""
        for parts, table in self._tables:
            found = table.get(tuple([subject[part] for part in parts]))
            if found is not None and (found.expires_at_us is None or now_us < found.expires_at_us):
                if found.meter is None:
                    found.meter = self._meter(found.limit)
                return found.meter
        return self.meter

    def _meter(self, limit: Limit) -> Meter:
        """A meter of this policy. An override counts where its policy does, so that one that ends forgets nothing."""
        if self.policy.mode is Mode.SHADOW or limit.id != self.policy.limit.id:
            mode = Mode.SHADOW if self.policy.mode is Mode.SHADOW else limit.mode
            limit = msgspec.structs.replace(limit, id=self.policy.limit.id, mode=mode)
        return Meter(limit, policy_id=self.policy.id, cost=self.policy.cost)


Reader = Callable[[Facts], str | None]


def _reader(part: str, pattern: str | None) -> Reader:
    """What takes the value of ``part`` of a subject out of a check's facts."""
    match part:
        case "ip":
            return lambda facts: facts.ip
        case "key":
            return lambda facts: facts.key_id
        case "customer":
            return lambda facts: facts.customer_id
        case "tenant":
            return lambda facts: facts.tenant_id
        case "endpoint":  # never the raw path: that would be a counter for every id
            return lambda facts: facts.endpoint or pattern_subject(facts.method, pattern)
    name = part.removeprefix("attr:")
    return lambda facts: None if facts.attributes is None else facts.attributes.get(name)


class _Overriding:
    """An override; its meter is made when it is first needed, since of ten thousand few are."""

    __slots__ = ("expires_at_us", "limit", "meter")

    def __init__(self, override: Override) -> None:
        self.limit = override.limit
        self.expires_at_us = override.expires_at_us
        self.meter: Meter | None = None


_Tables = tuple[tuple[tuple[str, ...], dict[tuple[str, ...], _Overriding]], ...]


def exact_parts(override: Override) -> dict[str, str]:
    """What an override names exactly; a part that it leaves away, or gives as ``*``, may be anything."""
    return {part: value for part, value in override.subject.items() if value != ANYTHING}


def _tables(policy: Policy) -> _Tables:
    """The overrides by which parts they name: those with more parts first, then those with the policy's earlier parts."""
    found: dict[tuple[str, ...], dict[tuple[str, ...], _Overriding]] = {}
    for override in policy.overrides:
        named = exact_parts(override)
        parts = tuple(part for part in policy.per if part in named)
        found.setdefault(parts, {})[tuple(named[part] for part in parts)] = _Overriding(override)
    return tuple(sorted(found.items(), key=lambda item: (-len(item[0]), [policy.per.index(part) for part in item[0]])))


class Selection:
    """The policies of one kind of caller, found by what a check asks for and not walked one by one."""

    __slots__ = ("_attributes", "_methods", "_paths", "is_empty")

    def __init__(self, policies: Iterable[CompiledPolicy]) -> None:
        self._methods: dict[str | None, list[CompiledPolicy]] = {}
        self._paths: PathIndex[CompiledPolicy] | None = None
        self._attributes: dict[tuple[str, str], list[CompiledPolicy]] = {}
        self.is_empty = True
        for policy in policies:
            self.is_empty = False
            match = policy.match
            if match.path is not None:
                self._paths = self._paths or PathIndex()
                self._paths.add(match.path, policy)
            elif match.attributes:
                first = next(iter(match.attributes.items()))
                self._attributes.setdefault(first, []).append(policy)
            else:
                for method in dict.fromkeys(match.methods) or (None,):
                    self._methods.setdefault(method, []).append(policy)

    def matching(self, facts: Facts) -> list[CompiledPolicy]:
        """The policies that match a check, in the order of their ids."""
        method, path = facts.method, facts.path
        found = [*self._methods.get(None, ())]
        if method is not None:
            found += self._methods.get(method, ())
        if path is not None and self._paths is not None:
            found += [policy for policy in self._paths.find(path) if _matches(policy.match, facts)]
        if facts.attributes and self._attributes:
            for attribute in facts.attributes.items():
                found += [policy for policy in self._attributes.get(attribute, ()) if _matches(policy.match, facts)]
        if len(found) > 1:
            found.sort(key=_id_of)
        return found


class PolicyPlan:
    """The enabled policies of a tenant on ``plan``. What callers of one kind share is compiled when it is first asked for.

    Callers are of one kind who can't be told apart by any policy: those with the same of the scopes that policies name.
    ``is_empty`` and ``is_empty_for_keys`` are whether there is none for anybody, and none for callers with a key.
    """

    __slots__ = ("_kinds", "_policies", "_scopes", "_selections", "is_empty", "is_empty_for_keys")

    def __init__(self, plan: str, policies: Iterable[CompiledPolicy]) -> None:
        self._policies = [
            compiled for compiled in policies if compiled.policy.enabled and compiled.match.plan in {None, plan}
        ]
        self.is_empty = not self._policies
        self.is_empty_for_keys = all(compiled.match.caller == "anonymous" for compiled in self._policies)
        self._scopes = {scope for compiled in self._policies for scope in compiled.match.scopes}
        self._kinds: dict[tuple[bool, str, tuple[str, ...]], Selection] = {}
        self._selections: dict[tuple[bool, str, frozenset[str]], Selection] = {}

    def selection(self, *, has_key: bool, environment: str, scopes: tuple[str, ...]) -> Selection:
        """The policies for callers of this kind."""
        selection = self._kinds.get((has_key, environment, scopes))
        if selection is None:
            if len(self._kinds) >= _MOST_KINDS or len(self._selections) >= _MOST_SELECTIONS:
                self._kinds.clear()
                self._selections.clear()
            selection = self._kinds[has_key, environment, scopes] = self._select(has_key, environment, scopes)
        return selection

    def _select(self, has_key: bool, environment: str, scopes: tuple[str, ...]) -> Selection:
        kind = (has_key, environment, frozenset(scope for scope in self._scopes if satisfies(scopes, scope)))
        if kind not in self._selections:
            self._selections[kind] = Selection(
                policy for policy in self._policies if _is_for(policy.match, has_key, environment, scopes)
            )
        return self._selections[kind]


_MOST_KINDS = 1024
_MOST_SELECTIONS = 32


def _is_for(match: Match, has_key: bool, environment: str, scopes: tuple[str, ...]) -> bool:
    return (
        (match.caller == "any" or (match.caller == "key") == has_key)
        and match.environment in {None, environment}
        and all(satisfies(scopes, scope) for scope in match.scopes)
    )


def _matches(match: Match, facts: Facts) -> bool:
    """Whether a check has the method and the attributes that ``match`` asks for."""
    if match.methods and facts.method not in match.methods:
        return False
    given = facts.attributes or {}
    return all(given.get(name) == value for name, value in match.attributes.items())


def _id_of(policy: CompiledPolicy) -> str:
    return policy.policy.id
