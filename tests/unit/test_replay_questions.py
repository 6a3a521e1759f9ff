"""A replay remembers whom it asked about what, by what the policy looks at, and no more than it may."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from apishield.core.events import CATALOGUED, TEST, DecisionEvent
from apishield.core.model import SECOND_US, FixedWindow, Limit, SlidingWindow
from apishield.core.records import Environment, Match, Override, Policy
from apishield.core.replay_questions import Questions, Surroundings

AROUND = Surroundings(
    "starter", lambda key_id: ("write",) if key_id == "key_1" else ("read",), frozenset({"GET /orders/{id}", "* /any"})
)

EVENTS = [
    DecisionEvent(
        0, 0, "ten_a", "ok", flags, key_id, customer_id, method, path, endpoint, address, attributes=attributes
    )
    for flags in (0, CATALOGUED, TEST)
    for key_id, customer_id in ((None, None), ("key_1", "cus_1"), ("key_2", None))
    for method, path, endpoint in (
        ("GET", "/orders/7", "/orders/{id}"),
        ("HEAD", "/orders/8", "/orders/{id}"),
        ("POST", "/any", "/any"),
        (None, None, None),
    )
    for address in (None, "192.0.2.1", "2001:db8::1", "2001:db8::2", "?")
    for attributes in (None, {"user": "u1"})
]


def policy(match: Match, per: tuple[str, ...], overrides: tuple[Override, ...] = ()) -> Policy:
    limit = Limit(id="lim_a", name="a", algorithm=SlidingWindow(3, SECOND_US))
    return Policy(
        id="pol_a", tenant_id="ten_a", name="a", match=match, per=per, limit=limit, overrides=overrides,
        created_at_us=0, updated_at_us=0,
    )  # fmt: skip


@pytest.mark.parametrize("per", [("key",), ("ip",), ("tenant",), ("endpoint",), ("customer", "ip"), ("attr:user",)])
@pytest.mark.parametrize(
    "match",
    [
        Match(),
        Match(methods=("GET",)),
        Match(path="/orders/*"),
        Match(path="/orders/{id}", methods=("HEAD",), caller="key"),
        Match(scopes=("write",)),
        Match(scopes=("write",), path="/orders*"),
        Match(caller="anonymous", environment=Environment.TEST),
        Match(attributes={"user": "u1"}),
    ],
)
@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_what_is_remembered_is_what_each_decision_would_be_told_afresh(
    match: Match, per: tuple[str, ...], most: int
) -> None:
    remembering = Questions(policy(match, per), AROUND, most)
    whole = Questions(policy(match, per), AROUND)._asked
    for event in EVENTS * 2:
        afresh = whole.ask(event, 0)
        found = remembering.ask(event, 0)
        assert (found and found.counter.key) == (afresh and afresh.counter.key)
        assert (found and found.counter.limit) == (afresh and afresh.counter.limit)


def test_an_override_that_ends_is_not_remembered() -> None:
    override = Override(
        subject={"key": "key_1"}, limit=Limit(id="", name="", algorithm=FixedWindow(9, SECOND_US)), expires_at_us=5
    )
    questions = Questions(policy(Match(), ("key",), (override,)), AROUND)
    event = DecisionEvent(0, 0, "ten_a", "ok", 0, "key_1")
    ceilings = [found.meter.ceiling for now_us in (4, 5) if (found := questions.ask(event, now_us)) is not None]
    assert ceilings == [9, 3]


@pytest.mark.parametrize(
    ("match", "event"),
    [
        (Match(), lambda number: DecisionEvent(number, 0, "ten_a", "ok", 0, address=f"192.0.2.{number % 256}")),
        (Match(path="/a/*"), lambda number: DecisionEvent(number, 0, "ten_a", "ok", 0, path=f"/a/{number}")),
    ],
)
def test_no_more_is_remembered_than_may_be(match: Match, event: Callable[[int], DecisionEvent]) -> None:
    questions = Questions(policy(match, ("ip",)), AROUND, 100)
    for number in range(1_000):
        questions.ask(event(number), 0)
    assert 50 <= len(questions) <= 100


def test_what_was_remembered_is_gone_with_the_replay() -> None:
    questions = Questions(policy(Match(), ("ip",)), AROUND)
    questions.ask(DecisionEvent(0, 0, "ten_a", "ok", 0, address="192.0.2.1"), 0)
    gone = weakref.ref(questions)
    gc.disable()  # or a collection might find it just now
    try:
        del questions
        assert gone() is None
    finally:
        gc.enable()
