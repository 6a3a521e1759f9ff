"""Checks that are decided together get what each would have got by itself, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apishield.api.dataplane.answers import Answer, Question
from apishield.api.dataplane.app import DataPlane
from apishield.core.decided import Decided
from apishield.core.decision import CheckRequest, Decision
from apishield.core.events import DecisionEvent
from apishield.core.model import (
    SECOND_US,
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Mode,
    Quota,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.core.policies import CompiledPolicy, PolicyPlan
from apishield.core.ports import CounterStore
from apishield.core.records import Match, Policy
from apishield.later import Later
from apishield.services.asked import Asked
from apishield.services.key_drafts import KeyDraft
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, node_beside, running_node


def _limit(name: str, algorithm: Algorithm, unit: str = "requests", mode: Mode = Mode.ENFORCE) -> Limit:
    return Limit(id=f"lim_{name}", name=name, algorithm=algorithm, unit=unit, mode=mode)


MINUTE = _limit("minute", SlidingWindow(6, 60 * SECOND_US))
BURST = _limit("burst", TokenBucket(2, SECOND_US, 4))
WORDS = _limit("words", FixedWindow(9, 60 * SECOND_US), "tokens")
SLOTS = _limit("slots", Concurrency(3, 60 * SECOND_US))
MONTH = _limit("month", Quota(20))
KEYS = [
    KeyDraft(
        name="several",
        scopes=("read", "write"),
        rate_limits=(MINUTE, BURST, WORDS),
        quotas=(MONTH,),
    ),
    KeyDraft(name="one", scopes=("read",), rate_limits=(MINUTE,)),
    KeyDraft(name="from one address", scopes=("read",), rate_limits=(BURST,), allowed_ips=("203.0.113.7",)),
    KeyDraft(name="at once", scopes=("read",), rate_limits=(SLOTS,)),
    KeyDraft(name="free", scopes=("read",)),
]
POLICIES = [
    (Match(methods=("POST",)), ("endpoint",), _limit("writes", SlidingWindow(5, 60 * SECOND_US))),
    (Match(), ("ip",), _limit("seen", SlidingWindow(2, 60 * SECOND_US), mode=Mode.SHADOW)),
]

checks = st.fixed_dictionaries(
    {
        "api_key": st.sampled_from([*range(len(KEYS)), None, "sk_live_mistyped"]),
        "method": st.sampled_from([None, "GET", "POST", "???"]),
        "path": st.sampled_from([None, "/a", "/b/../c"]),
        "ip": st.sampled_from([None, "203.0.113.7", "2001:db8::1", "nonsense"]),
        "cost": st.sampled_from([None, 0, 1, 3, {"requests": 1, "tokens": 4}]),
        "reserve": st.booleans(),
        "check_id": st.sampled_from([None, None, None, "twice"]),
    }
)


def _policy(tenant: Tenant, match: Match, per: tuple[str, ...], limit: Limit) -> Policy:
    return Policy(
        id=f"pol_{limit.name}",
        tenant_id=tenant.id,
        name=limit.name,
        match=match,
        per=per,
        limit=limit,
        created_at_us=0,
        updated_at_us=0,
    )


class Scene:
    """A node on which tenants with the same keys and policies are made."""

    def __init__(self, node: Node, clock: ManualClock) -> None:
        self.node, self.clock = node, clock

    async def tenants(self, count: int) -> list[tuple[Tenant, list[str]]]:
        made: list[tuple[Tenant, list[str]]] = []
        for _ in range(count):
            tenant = await self.node.tenant()
            made.append((tenant, [(await self.node.runtime.keys.create(tenant.owner, draft))[1] for draft in KEYS]))
        await self.node.runtime.snapshot.load()
        for tenant, secrets in made:
            assert (await tenant.check(api_key=secrets[0]))["allowed"]  # the quota is looked up
            view = self.node.runtime.snapshot.tenant(tenant.id)
            assert view is not None
            view.policy_plan = PolicyPlan(
                view.tenant.plan, [CompiledPolicy(_policy(tenant, *each)) for each in POLICIES]
            )
        return made

    def screened(self, tenant: Tenant, secrets: Sequence[str], asked: Sequence[dict[str, Any]]) -> list[Asked]:
        view = self.node.runtime.snapshot.tenant(tenant.id)
        assert view is not None
        screened = []
        for check in asked:
            key = check["api_key"]
            request = CheckRequest(**check | {"api_key": secrets[key] if isinstance(key, int) else key})
            screened.append(self.node.runtime.engine.screen(view, request))
        assert None not in screened
        return [each for each in screened if each is not None]

    def noted(self) -> list[tuple[Any, ...]]:
        """What was noted since the last time, but for what tells tenants and decisions apart."""
        events = list(self.node.runtime.events._events)
        self.node.runtime.events.flush()
        return sorted(
            [
                (
                    each.code,
                    each.flags,
                    repr(each.units),
                    each.method,
                    each.path,
                    each.address,
                    each.message,
                    repr(each.refusal),
                )
                for each in events
                if isinstance(each, DecisionEvent)
            ],
            key=repr,
        )


def _said(decided: object) -> Decision:
    """The decision, but for what tells tenants and decisions apart."""
    assert isinstance(decided, Decided)
    decision = decided.decision()
    assert decision.headers.pop("X-APIShield-Decision") == decision.decision_id
    return msgspec.structs.replace(decision, decision_id="", tenant_id="", key=None)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Scene]]:
    """One node for all examples."""
    clock = ManualClock()
    with node_beside(Path(tmp_path_factory.mktemp("node")), clock) as (runner, node):
        yield runner, Scene(node, clock)


@settings(max_examples=40)
@given(turns=st.lists(st.tuples(st.integers(0, 40 * SECOND_US), st.lists(checks, min_size=1, max_size=12)), max_size=4))
def test_each_gets_what_it_would_have_got_alone(
    scene: tuple[asyncio.Runner, Scene], turns: list[tuple[int, list[dict[str, Any]]]]
) -> None:
    runner, stage = scene

    async def play() -> None:
        together, alone = await stage.tenants(2)
        engine = stage.node.runtime.engine
        stage.noted()
        for pause_us, asked in turns:
            stage.clock.now_us += pause_us
            got = [_said(decided) for decided in engine.decide_all(stage.screened(*together, asked))]
            noted = stage.noted()
            expected = [_said(engine.decide(each)) for each in stage.screened(*alone, asked)]
            assert got == expected
            assert noted == stage.noted()

    runner.run(play())


class BrokenFor:
    """A store that fails over the counters of one key: there is a bug in it."""

    def __init__(self, store: CounterStore, key: str) -> None:
        self._store, self._key = store, key

    def decide(self, counters: Sequence[Counter], *more: Any) -> Any:
        if any(self._key in counter.key for counter in counters):
            raise RuntimeError("a bug")
        return self._store.decide(counters, *more)

    def send(self) -> None:
        self._store.send()


async def test_one_check_that_fails_takes_none_of_the_same_turn_with_it(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_node(tmp_path, clock) as node:
        scene = Scene(node, clock)
        ((tenant, secrets),) = await scene.tenants(1)
        engine = node.runtime.engine
        screened = scene.screened(tenant, secrets, [{"api_key": at, "method": "GET"} for at in (0, 1, 0, 3, 1)])
        assert screened[0].entry is not None
        monkeypatch.setattr(engine, "_store", BrokenFor(node.runtime.store, screened[0].entry.key.id))
        scene.noted()
        found = engine.decide_all(screened)
        assert [isinstance(each, Decided) for each in found] == [False, True, False, True, True]
        assert len(scene.noted()) == 3
        with pytest.raises(RuntimeError, match="a bug"):
            await cast(Later[Decided], found[0])


class Slow:
    """A store that answers later, and notes when it is told that no more will be asked."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def decide(self, counters: Sequence[Counter], *more: Any) -> Later[Verdict]:
        self.told.append("decide")
        return Later()

    def send(self) -> None:
        self.told.append("send")


class Told(Question):
    """A question whose answer nobody waits for."""

    def __init__(self, screened: Asked) -> None:
        self.screened = screened

    def answer(self, decided: Decided) -> Answer:
        return Answer(200, [], decided.json().encode())

    def failure(self, error: Exception) -> Answer:
        raise error


@pytest.mark.parametrize("checks", [1, 2, 3, 4, 8])
async def test_what_a_turn_asks_of_a_store_goes_out_together_however_little_it_is(
    checks: int, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_node(tmp_path, clock) as node:
        scene = Scene(node, clock)
        ((tenant, secrets),) = await scene.tenants(1)
        screened = scene.screened(tenant, secrets, [{"api_key": 1, "method": "GET"}] * checks)
        slow = Slow()
        monkeypatch.setattr(node.runtime.engine, "_store", slow)
        DataPlane(node.runtime, _no_control_plane).answer_all([Told(each) for each in screened])
        assert slow.told == ["decide"] * checks + ["send"]


async def _no_control_plane(*_: object) -> None:
    raise AssertionError("nobody asks it")
