"""A replayed policy does what the live engine did with the same traffic while the policy was in force."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apishield.core.decided import Decided
from apishield.core.decision import CheckRequest
from apishield.core.decision_ids import DecisionIds
from apishield.core.events import PEEK, DecisionEvent, Event, EventRef, ResultEvent, SettlementEvent
from apishield.core.model import SECOND_US, Concurrency, FixedWindow, Limit, SlidingWindow, TokenBucket
from apishield.core.records import Match, Override, Policy
from apishield.core.replay import Replay, Span, warm_from_us
from apishield.core.replay_questions import Surroundings
from apishield.services.endpoints import EndpointDraft
from apishield.services.engine import Engine
from apishield.services.policies import PolicyDraft
from apishield.services.recorder import DecisionRecorder
from apishield.services.reports import Report, ReportService
from apishield.services.settlement import SettlementService
from apishield.stores.sql.pagination import PageRequest
from tests.support.checks import make_key
from tests.support.clock import ManualClock
from tests.support.node import Node, Tenant, node_beside


class Kept(msgspec.Struct):
    """A decision as the archive keeps it."""

    spool: int
    event: DecisionEvent
    result: ResultEvent | None = None
    settlement: SettlementEvent | None = None


class Tape:
    """Takes down the decisions of a real engine (an ``EventLog``)."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def append(self, event: Event) -> None:
        if isinstance(event, DecisionEvent):
            self.kept.append(Kept(1, event))
        elif isinstance(event, ResultEvent | SettlementEvent):
            (of,) = [kept for kept in self.kept if kept.event.sequence == event.sequence]
            if isinstance(event, ResultEvent):
                of.result = event
            else:
                of.settlement = event

    def flush(self) -> bool:
        return True

    def has_room_for(self, _results: int) -> bool:
        return True


class Check(NamedTuple):
    """One request of the traffic: after which pause, by whom, for what, at what cost."""

    pause_us: int
    caller: int
    request: int
    cost: int | None


REQUESTS = [
    ("GET", "/v1/search"),
    ("POST", "/v1/search/deep"),
    ("GET", "/orders/7"),
    ("HEAD", "/orders/8"),
    ("GET", "/x"),
]
ADDRESSES = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]

windows = st.sampled_from([SECOND_US, 3 * SECOND_US, 10 * SECOND_US])
numbers = st.integers(1, 6)
algorithms = st.one_of(
    st.builds(FixedWindow, numbers, windows),
    st.builds(SlidingWindow, numbers, windows),
    st.builds(TokenBucket, numbers, windows, st.integers(1, 8)),
)
limits = st.builds(Limit, id=st.just(""), name=st.just(""), algorithm=algorithms, charge_refused=st.booleans())
matches = st.builds(
    Match,
    methods=st.sampled_from([(), ("GET",), ("GET", "POST")]),
    path=st.sampled_from([None, "/v1/search*", "/orders/{id}"]),
    caller=st.sampled_from(["any", "key", "anonymous"]),
    scopes=st.just(()),
)
per = st.sampled_from([("ip",), ("tenant",), ("endpoint",), ("ip", "endpoint")])
traffic = st.lists(
    st.builds(
        Check,
        pause_us=st.sampled_from([0, 1, 1000, 100_000, 900_000, SECOND_US, 4 * SECOND_US]),
        caller=st.integers(0, 4),
        request=st.integers(0, len(REQUESTS) - 1),
        cost=st.sampled_from([None, None, 0, 1, 2, 3]),
    ),
    min_size=1,
    max_size=80,
)


class Stage:
    """A node that stands, on which each example has a tenant of its own."""

    def __init__(self, node: Node, clock: ManualClock) -> None:
        self.node = node
        self.clock = clock

    @asynccontextmanager
    async def play(self, draft: PolicyDraft, other: PolicyDraft | None, checks: list[Check]) -> AsyncIterator[Any]:
        """Puts the policy in force, lets the traffic pass, and hands out what was taken down."""
        runtime, tape = self.node.runtime, Tape()
        tenant = await self.node.tenant()
        for came_with_it in (await runtime.policies.list(tenant.owner, PageRequest())).items:
            await runtime.policies.delete(tenant.owner, came_with_it.id)
        policy = await runtime.policies.create(tenant.owner, draft)
        if other is not None:
            await runtime.policies.create(tenant.owner, other)
        await runtime.endpoints.create(tenant.owner, EndpointDraft(method="GET", path="/orders/{id}"))
        secrets = [None, None, None, (await make_key(tenant))[1], (await make_key(tenant))[1]]
        await runtime.snapshot.catch_up()
        engine = Engine(
            runtime.snapshot,
            runtime.store,
            DecisionIds([b"k" * 32], 1),
            self.clock,
            DecisionRecorder(tape, runtime.usage, runtime.metrics.checks),
        )
        view = runtime.snapshot.tenant(tenant.id)
        assert view is not None
        for check in checks:
            self.clock.now_us += check.pause_us
            method, path = REQUESTS[check.request]
            request = CheckRequest(
                api_key=secrets[check.caller],
                ip=ADDRESSES[check.caller % len(ADDRESSES)],
                method=method,
                path=path,
                cost=check.cost,
            )
            decided = engine.check(view, request)
            assert isinstance(decided, Decided)
        yield tenant, policy, tape.kept
        self.clock.advance(3600)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Stage]]:
    """One node for all examples."""
    clock = ManualClock()
    with node_beside(Path(tmp_path_factory.mktemp("node")), clock) as (runner, node):
        yield runner, Stage(node, clock)


def surroundings_of(node: Node, tenant: Tenant) -> Surroundings:
    view = node.runtime.snapshot.tenant(tenant.id)
    assert view is not None
    return Surroundings(
        view.tenant.plan,
        lambda key_id: view.keys[key_id].key.scopes,
        frozenset(entry.subject for entry in view.endpoints.values()),
    )


def refused_by(policy: Policy, kept: list[Kept], from_us: int = 0) -> list[EventRef]:
    return [
        EventRef(each.spool, each.event.sequence)
        for each in kept
        if each.event.at_us >= from_us
        and not each.event.flags & PEEK
        and each.event.refusal is not None
        and each.event.refusal.policy_id == policy.id
    ]


def replayed(replay: Replay, kept: list[Kept]) -> list[EventRef]:
    """Whom the replay refuses, decision by decision."""
    refused = []
    for each in kept:
        before = replay.report().would_refuse
        replay.take([each])
        if replay.report().would_refuse > before:
            refused.append(EventRef(each.spool, each.event.sequence))
    return refused


drafts = st.builds(
    PolicyDraft, name=st.just("Replayed"), per=per, limit=limits, match=matches, cost=st.sampled_from([1, 1, 2])
).filter(lambda draft: draft.cost <= draft.limit.algorithm.ceiling)  # others are refused
others = st.none() | st.builds(PolicyDraft, name=st.just("Other"), per=per, limit=limits)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(draft=drafts, other=others, checks=traffic, start=st.integers(0, 79))
def test_a_policy_replayed_refuses_exactly_what_it_refused_live(
    stage: tuple[asyncio.Runner, Stage], draft: PolicyDraft, other: PolicyDraft | None, checks: list[Check], start: int
) -> None:
    runner, scene = stage

    async def compare() -> None:
        # With another limit that refuses without charging, the two may both be violated by one check: the event names
        # one of them. A policy that charges refusals then charged one that its own events don't tell of.
        safe = draft if other is None else msgspec.structs.replace(draft, limit=_uncharged(draft.limit))
        async with scene.play(safe, other, checks) as (tenant, policy, kept):
            surroundings = surroundings_of(scene.node, tenant)
            whole = Replay(policy, Span(0, scene.clock.now_us + 1), surroundings)
            assert replayed(whole, kept) == refused_by(policy, kept)
            assert whole.report().decisions == sum(not each.event.flags & PEEK for each in kept)
            # From any moment on, too: what came before fills the counters as it did live.
            from_us = kept[start % len(kept)].event.at_us
            warm = warm_from_us(policy, from_us)
            warmed = [each for each in kept if each.event.at_us >= warm]
            late = Replay(policy, Span(from_us, scene.clock.now_us + 1, policy.updated_at_us), surroundings)
            assert replayed(late, warmed) == refused_by(policy, kept, from_us)

    runner.run(compare())


def _uncharged(limit: Limit) -> Limit:
    return msgspec.structs.replace(limit, charge_refused=False)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(algorithm=algorithms, other=algorithms, checks=traffic, ends=st.integers(1, 30))
def test_overrides_count_in_a_replay_as_they_did_live(
    stage: tuple[asyncio.Runner, Stage], algorithm: Any, other: Any, checks: list[Check], ends: int
) -> None:
    runner, scene = stage
    override = Override(
        subject={"ip": ADDRESSES[0]},
        limit=Limit(id="", name="", algorithm=other),
        expires_at_us=scene.clock.now_us + ends * SECOND_US,
    )
    draft = PolicyDraft(
        name="Replayed", per=("ip",), limit=Limit(id="", name="", algorithm=algorithm), overrides=(override,)
    )

    async def compare() -> None:
        async with scene.play(draft, None, checks) as (tenant, policy, kept):
            replay = Replay(policy, Span(0, scene.clock.now_us + 1), surroundings_of(scene.node, tenant))
            assert replayed(replay, kept) == refused_by(policy, kept)

    runner.run(compare())


def test_a_replay_from_the_middle_begins_with_the_counters_as_they_really_stood(
    stage: tuple[asyncio.Runner, Stage],
) -> None:
    runner, scene = stage
    draft = PolicyDraft(
        name="Replayed", per=("tenant",), limit=Limit(id="", name="", algorithm=SlidingWindow(2, 10 * SECOND_US))
    )
    # Admitted at 0, 7, 10, 18 and 20 s. Who begins empty somewhere between admits the refused ones, too, and then others not.
    checks = [Check(pause * SECOND_US, 0, 4, 1) for pause in (0, 7, 1, 2, 5, 3, 1, 1, 1)]

    async def compare() -> None:
        async with scene.play(draft, None, checks) as (tenant, policy, kept):
            surroundings = surroundings_of(scene.node, tenant)
            for start in kept:
                from_us = start.event.at_us
                warmed = [each for each in kept if each.event.at_us >= warm_from_us(policy, from_us)]
                span = Span(from_us, scene.clock.now_us + 1, policy.updated_at_us)
                assert replayed(Replay(policy, span, surroundings), warmed) == refused_by(policy, kept, from_us)

    runner.run(compare())


class Step(NamedTuple):
    """A check that reserves, or what becomes of the one before last: its cost in the end, ``None`` for a bare report."""

    pause_us: int
    estimate: int
    ends: bool
    cost: int | None
    releases: bool


steps = st.lists(
    st.builds(
        Step,
        pause_us=st.sampled_from([1, 1000, 400_000, SECOND_US, 3 * SECOND_US]),
        estimate=st.integers(1, 6),
        ends=st.booleans(),
        cost=st.none() | st.integers(0, 9),
        releases=st.booleans(),
    ),
    min_size=2,
    max_size=60,
)
slots = st.builds(Concurrency, st.integers(1, 4), st.sampled_from([SECOND_US, 5 * SECOND_US]))


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(algorithm=algorithms | slots, steps=steps)
def test_what_is_settled_reported_or_released_frees_in_a_replay_what_it_freed_live(
    stage: tuple[asyncio.Runner, Stage], algorithm: Any, steps: list[Step]
) -> None:
    runner, scene = stage
    unit = "requests" if isinstance(algorithm, Concurrency) else "tokens"
    draft = PolicyDraft(
        name="Replayed",
        per=("tenant",),
        limit=Limit(id="", name="", algorithm=algorithm, unit=unit),
        match=Match(methods=("GET",)),
    )

    async def compare() -> None:
        async with scene.play(draft, None, []) as (tenant, policy, kept):
            tape, runtime = Tape(), scene.node.runtime
            tape.kept = kept
            ids = DecisionIds([b"k" * 32], 1)
            recorder = DecisionRecorder(tape, runtime.usage, runtime.metrics.checks)
            engine = Engine(runtime.snapshot, runtime.store, ids, scene.clock, recorder)
            settlement = SettlementService(runtime.store, ids, tape, scene.clock)
            reports = ReportService(ids, settlement, scene.clock, tape)
            view = runtime.snapshot.tenant(tenant.id)
            assert view is not None
            admitted: list[str] = []
            for step in steps:
                scene.clock.now_us += step.pause_us
                cost = {"requests": 1, "tokens": step.estimate}
                decided = engine.check(view, CheckRequest(method="GET", path="/x", cost=cost, reserve=unit == "tokens"))
                assert isinstance(decided, Decided)
                if decided.allowed:
                    admitted.append(decided.decision_id)
                if step.ends and admitted:
                    scene.clock.now_us += step.pause_us
                    of = admitted.pop(0)
                    if step.releases:
                        await settlement.release(tenant.id, of)
                    else:
                        paid = None if step.cost is None or unit == "requests" else {"tokens": step.cost}
                        await reports.take(tenant.id, [Report(of, 200, 1.0, None, paid)])
            replay = Replay(policy, Span(0, scene.clock.now_us + 1), surroundings_of(scene.node, tenant))
            assert replayed(replay, kept) == refused_by(policy, kept)

    runner.run(compare())
