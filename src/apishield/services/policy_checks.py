"""What a policy must be so that it can be compiled, and so that it could ever refuse anybody. All faults are collected."""

from __future__ import annotations

import re

import msgspec

from apishield.core import path_index
from apishield.core.abuse_detector.addresses import parse_address, parse_network
from apishield.core.endpoints import ANY_METHOD, ANY_PATH
from apishield.core.ids import is_id
from apishield.core.model import MAX_UNITS, Limit
from apishield.core.policies import ANYTHING, exact_parts
from apishield.core.records import Environment, Match, Override, Policy
from apishield.services.checks import Faults, is_quota

SUBJECTS = ("key", "ip", "endpoint", "tenant", "customer")
MAX_PARTS = 8
MAX_OVERRIDES = 10_000
MAX_METHODS = 32
MAX_FAULTS = 50
MAX_ATTRIBUTES = 32

_ATTRIBUTE = re.compile(r"attr:[A-Za-z0-9_.-]{1,64}")
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_IDS = {"key": "key", "customer": "cus", "tenant": "ten"}
_OF_KEYS = ("key", "customer")


def checked(policy: Policy) -> Policy:
    """The policy in its one spelling. Raises 422 with all that is wrong with it, by field."""
    faults = Faults()
    faults.text("/name", policy.name)
    _check_per(policy.per, faults)
    _check_match(policy.match, faults)
    _check_sense(policy, faults)
    _check_limit(policy.limit, "/limit", faults)
    if not 1 <= policy.cost <= MAX_UNITS:
        faults.add("/cost", f"must be 1 to {MAX_UNITS:,}, is {policy.cost}; to charge nothing, disable the policy")
    elif 0 < policy.limit.algorithm.ceiling < policy.cost:
        faults.add(
            "/cost", f"is {policy.cost:,}, above the {policy.limit.algorithm.ceiling:,} that the limit ever admits"
        )
    if len(policy.overrides) > MAX_OVERRIDES:
        faults.add("/overrides", f"has {len(policy.overrides):,} entries; at most {MAX_OVERRIDES:,} are kept")
    overrides = _overrides(policy, faults)
    faults.raise_any()
    methods = tuple(dict.fromkeys(policy.match.methods))
    match = msgspec.structs.replace(policy.match, methods=methods)
    return msgspec.structs.replace(policy, match=match, overrides=overrides)


def _check_limit(limit: Limit, at: str, faults: Faults) -> None:
    """One limit, which need not have a name: it is then called as its policy."""
    faults.limit(at, limit if limit.name else msgspec.structs.replace(limit, name="unnamed"))
    if is_quota(limit):
        faults.add(at, "follows the calendar: quotas belong to keys", "invalid_limit")


def _check_per(per: tuple[str, ...], faults: Faults) -> None:
    if not per:
        faults.add("/per", f"names nothing to count by; give at least one of {', '.join(SUBJECTS)} or attr:<name>")
    if len(per) > MAX_PARTS:
        faults.add("/per", f"has {len(per)} parts; at most {MAX_PARTS} are counted by together")
    for place, subject in enumerate(per):
        if subject not in SUBJECTS and _ATTRIBUTE.fullmatch(subject) is None:
            faults.add(f"/per/{place}", f"{subject[:64]!a} is none of {', '.join(SUBJECTS)} or attr:<name>")
        if subject in per[:place]:
            faults.add(f"/per/{place}", f"{subject[:64]!a} is there twice")


def _check_match(match: Match, faults: Faults) -> None:
    if len(match.methods) > MAX_METHODS:
        faults.add("/match/methods", f"has {len(match.methods)} methods; at most {MAX_METHODS} are kept")
    for place, method in enumerate(match.methods):
        if _METHOD.fullmatch(method) is None:
            faults.add(f"/match/methods/{place}", f"{method[:64]!a} is not a method such as GET")
    if match.path is not None:
        faults.text("/match/path", match.path, longest=path_index.MAX_PATTERN_CHARACTERS)
        fault = path_index.fault(match.path)
        if fault is not None:
            faults.add("/match/path", fault)
    faults.scopes("/match/scopes", match.scopes)
    if match.plan is not None:
        faults.text("/match/plan", match.plan, longest=64)
    if len(match.attributes) > MAX_ATTRIBUTES:
        faults.add("/match/attributes", f"has {len(match.attributes)} entries; at most {MAX_ATTRIBUTES} are kept")
    for name, value in match.attributes.items():
        at = f"/match/attributes/{_escaped(name)}"
        faults.text(at, name, longest=64)
        faults.text(at, value, longest=256)


def _check_sense(policy: Policy, faults: Faults) -> None:
    """A policy that could never apply to anybody protects nothing, and whoever wrote it thinks that it does."""
    match = policy.match
    if match.caller != "anonymous":
        return
    if match.scopes:
        faults.add("/match/scopes", "are never held by callers without a key, whom /match/caller asks for")
    if match.environment is Environment.TEST:
        faults.add("/match/environment", "is of keys; callers without one, whom /match/caller asks for, are live")
    for place, part in enumerate(policy.per):
        if part in _OF_KEYS:
            faults.add(f"/per/{place}", f"a caller without a key, whom /match/caller asks for, has no {part}")


def _overrides(policy: Policy, faults: Faults) -> tuple[Override, ...]:
    """The overrides in their one spelling: no two are of the same subject."""
    kept: list[Override] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    good: set[Limit] = set()  # ten thousand overrides have few different limits
    for place, override in enumerate(policy.overrides):
        if len(faults.found) >= MAX_FAULTS:
            break
        at = f"/overrides/{place}"
        if not override.subject or not set(override.subject) <= set(policy.per):
            faults.add(f"{at}/subject", f"must name some of what the policy counts by: {', '.join(policy.per)}")
        subject = {
            part: _value(part, value, f"{at}/subject/{_escaped(part)}", faults)
            for part, value in override.subject.items()
        }
        spelt = msgspec.structs.replace(override, subject=subject)
        named = tuple(sorted(exact_parts(spelt).items()))
        if named in seen:
            faults.add(f"{at}/subject", "is there twice; a part that is left away is the same as one that is *")
        seen.add(named)
        if override.limit not in good:
            before = len(faults.found)
            _check_limit(override.limit, f"{at}/limit", faults)
            if override.limit.unit != policy.limit.unit:
                faults.add(f"{at}/limit/unit", f"must be the policy's, {policy.limit.unit}", "invalid_limit")
            if 0 < override.limit.algorithm.ceiling < policy.cost <= policy.limit.algorithm.ceiling:
                faults.add(f"{at}/limit", f"never admits anything, as a request costs {policy.cost:,}", "invalid_limit")
            if len(faults.found) == before:
                good.add(override.limit)
        kept.append(spelt)
    return tuple(kept)


def _value(part: str, value: str, at: str, faults: Faults) -> str:
    """One part of an override's subject as checks have it; one that no check could have is a fault."""
    if value == ANYTHING:
        return value
    faults.text(at, value, longest=path_index.MAX_PATTERN_CHARACTERS)
    if part == "ip":
        network = parse_network(value)
        address = parse_address(value if network is None else str(network.network_address))
        counted = None if address is None else address.counted
        if network is not None and network.prefixlen != network.max_prefixlen and str(network) != counted:
            counted = None
        if counted is None:
            faults.add(at, f"{value[:64]!a} is no address; IPv4 is counted by address, IPv6 by /64")
        return counted or value
    if part == "endpoint":
        method, _, pattern = value.partition(" ")
        named = method == ANY_METHOD or _METHOD.fullmatch(method) is not None
        if not named or (pattern != ANY_PATH and path_index.fault(pattern) is not None):
            faults.add(at, f"{value[:64]!a} is no endpoint such as GET /orders/{{id}}")
    elif part in _IDS and not is_id(_IDS[part], value):
        faults.add(at, f"{value[:64]!a} is no id of a {part}, which begins with {_IDS[part]}_")
    return value


def _escaped(name: str) -> str:
    """``name`` as one step of a JSON pointer (RFC 6901), shortened."""
    return name[:64].replace("~", "~0").replace("/", "~1")
