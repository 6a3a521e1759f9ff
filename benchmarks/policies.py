"""What a check costs in a tenant with one policy and with a thousand: the engine on memory, without HTTP.

The thousand are for one route each (method and path, with a placeholder), for a part of the API (a prefix), for attributes
and for scopes. The checks of a row match the same policies whatever else the tenant has, so that a ratio is the price of
finding them. Every check has a path and an attribute that no check had before.

::

    python -m benchmarks.policies [--checks 4000] [--rounds 9]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from apishield.clock import system_clock
from apishield.core.decision import CheckRequest, Decision
from apishield.core.model import SECOND_US, Limit, SlidingWindow
from apishield.core.records import Actor, Match, Override, Role
from apishield.services.key_drafts import KeyDraft
from apishield.services.policies import PolicyDraft
from benchmarks.node import OPERATOR, BenchNode, bench_node
from benchmarks.rounds import Contender, nanoseconds_a_call
from benchmarks.table import print_table

POLICIES = 1_000  # with the one that every tenant starts with
ENDPOINTS = 5_000
OVERRIDES = 10_000


class Row(NamedTuple):
    """A tenant, and what its ratio is against."""

    title: str
    policies: Sequence[PolicyDraft]
    beside: str
    endpoints: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The price of a check by how many policies the tenant has")
    parser.add_argument("--checks", type=int, default=4_000, help="a round and tenant")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    asyncio.run(_run(options.checks, options.rounds))


async def _run(checks: int, rounds: int) -> None:
    one, three = _general(1), _general(3)
    rows = [
        Row("1 policy, 1 matches", one, "1 policy, 1 matches"),
        Row("1,000 policies, 1 matches", [*one, *_mix(POLICIES - 2)], "1 policy, 1 matches"),
        Row("3 policies, 3 match", three, "3 policies, 3 match"),
        Row("1,000 policies, 3 match", [*three, *_mix(POLICIES - 4)], "3 policies, 3 match"),
        Row("1 policy with 10,000 overrides", [_overridden(one[0])], "1 policy, 1 matches"),
        Row("1 policy, 5,000 endpoints", one, "1 policy, 1 matches", ENDPOINTS),
    ]
    async with bench_node(system_clock) as node:
        contenders = {row.title: await _contender(node, row, checks) for row in rows}
        spent = nanoseconds_a_call(contenders, rounds)
    print_table(
        "A check by how many policies its tenant has, µs of processor time, without HTTP",
        ["tenant", "µs a check", "ratio"],
        [[row.title, f"{spent[row.title] / 1000:.2f}", f"{spent[row.title] / spent[row.beside]:.2f}"] for row in rows],
    )


async def _contender(node: BenchNode, row: Row, checks: int) -> Contender:
    runtime = node.runtime
    created = await runtime.tenants.create(OPERATOR, name=row.title)
    owner = Actor(id=created.token.id, role=Role.OWNER, tenant_id=created.tenant.id)
    for draft in row.policies:
        await runtime.policies.create(owner, draft)
    if row.endpoints:
        paths: dict[str, Any] = {f"/v1/e{number}/{{id}}": {"get": {}} for number in range(row.endpoints)}
        await runtime.endpoints.import_document(owner, {"openapi": "3.1.0", "paths": paths})
    _, secret = await runtime.keys.create(owner, KeyDraft(name="bench", scopes=("read",)))
    await runtime.snapshot.load()
    view, engine = runtime.snapshot.tenant(owner.tenant_id or ""), runtime.engine
    assert view is not None
    fresh = itertools.count()

    def ask() -> Any:
        number = next(fresh)
        question = CheckRequest(
            api_key=secret,
            ip="192.0.2.1",
            method="GET",
            path=f"/v1/e{number % ENDPOINTS}/{number}",
            attributes={"user_id": f"u{number % 1000}"},
        )
        return engine.check(view, question)

    decision = ask()
    assert isinstance(decision, Decision)
    matching = sum(limit.policy_id is not None for limit in decision.limits)
    assert matching == (3 if "3 match" in row.title else 1), decision
    return Contender(ask, [()] * checks)


def _limit(name: str) -> Limit:
    return Limit(id="", name=name, algorithm=SlidingWindow(1_000_000_000, 60 * SECOND_US))


def _draft(name: str, match: Match, per: tuple[str, ...] = ("key",)) -> PolicyDraft:
    return PolicyDraft(name=name, per=per, limit=_limit(name), match=match)


def _general(count: int) -> list[PolicyDraft]:
    """Policies that match every check of this benchmark."""
    drafts = [
        _draft("each key", Match(caller="key")),
        _draft("reading", Match(methods=("GET",), path="/v1/*"), ("key", "ip")),
        _draft("users", Match(path="/v1/{resource}/{id}"), ("attr:user_id",)),
    ]
    return drafts[:count]


def _mix(count: int) -> list[PolicyDraft]:
    """Policies that match no check of this benchmark: seven in ten for a route, the others by prefix, attribute, scope."""
    drafts = []
    for number in range(count):
        match number % 10:
            case 7:
                match_ = Match(path=f"/v1/area{number}/*")
            case 8:
                match_ = Match(attributes={"contract": f"c{number}"})
            case 9:
                match_ = Match(scopes=(f"feature{number % 50}:use",), methods=("POST",))
            case _:
                match_ = Match(methods=("GET", "POST")[number % 2 :], path=f"/v1/r{number}/{{id}}")
        drafts.append(_draft(f"policy {number}", match_))
    return drafts


def _overridden(draft: PolicyDraft) -> PolicyDraft:
    subjects = [{"key": f"key_{number:026d}"} for number in range(OVERRIDES)]
    overrides = tuple(Override(subject=subject, limit=_limit("own")) for subject in subjects)
    return PolicyDraft(name=draft.name, per=draft.per, limit=draft.limit, match=draft.match, overrides=overrides)


if __name__ == "__main__":
    main()
