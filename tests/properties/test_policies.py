"""The compiled plan of policies says what comparing each policy with a check, one by one, would."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apishield.core.endpoints import pattern_subject
from apishield.core.key_manager.scopes import satisfies
from apishield.core.model import SECOND_US, Limit, Mode, SlidingWindow
from apishield.core.path_index import expression
from apishield.core.policies import CompiledPolicy, Facts, PolicyPlan
from apishield.core.records import Environment, Match, Override, Policy
from tests.properties.test_path_index import paths, patterns

NOW_US = 1_000 * SECOND_US
words = st.sampled_from(["a", "b"])
attributes = st.dictionaries(st.sampled_from(["tier", "user_id"]), words, max_size=2)
scopes = st.lists(st.sampled_from(["read", "write", "orders:read"]), max_size=2, unique=True).map(tuple)
matches = st.builds(
    Match,
    methods=st.lists(st.sampled_from(["GET", "POST"]), max_size=3).map(tuple),
    path=st.none() | patterns,
    caller=st.sampled_from(["key", "anonymous", "any"]),
    scopes=scopes,
    plan=st.sampled_from([None, "starter", "pro"]),
    environment=st.sampled_from([None, *Environment]),
    attributes=attributes,
)
pers = st.lists(st.sampled_from(["ip", "key", "endpoint", "attr:user_id"]), min_size=1, max_size=3, unique=True)
facts = st.builds(
    lambda key, environment, held, **known: (
        Facts(tenant_id="ten", environment=environment if key else "live", key_id=key, **known),
        held if key else (),
    ),
    key=st.sampled_from([None, "a", "b"]),
    environment=st.sampled_from(["live", "test"]),
    held=st.lists(st.sampled_from(["read", "admin", "orders:*"]), max_size=2, unique=True).map(tuple),
    method=st.sampled_from([None, "GET", "POST", "PUT"]),
    path=st.none() | paths,
    endpoint=st.sampled_from([None, "GET /{id}"]),
    ip=st.none() | words,
    attributes=st.none() | attributes,
)


def _limit(requests: int) -> Limit:
    return Limit(id="lim", name="l", algorithm=SlidingWindow(requests, SECOND_US))


def _policy(number: int, match: Match, per: list[str], **more: Any) -> Policy:
    return Policy(
        id=f"pol_{number:02}",
        tenant_id="ten",
        name=str(number),
        match=match,
        per=tuple(per),
        limit=_limit(10**6),
        created_at_us=0,
        updated_at_us=0,
        **more,
    )


def _applies(policy: Policy, known: Facts, held: tuple[str, ...], plan: str) -> bool:
    match, given = policy.match, known.attributes or {}
    return (
        (not match.methods or known.method in match.methods)
        and (match.path is None or (known.path is not None and bool(expression(match.path).fullmatch(known.path))))
        and match.caller in ("any", "anonymous" if known.key_id is None else "key")
        and all(satisfies(held, scope) for scope in match.scopes)
        and match.plan in (None, plan)
        and match.environment in (None, known.environment)
        and match.attributes.items() <= given.items()
    )


@given(
    drawn=st.lists(st.tuples(matches, pers, st.booleans()), max_size=10),
    asked=st.lists(facts, min_size=1, max_size=4),
    plan=st.sampled_from(["starter", "pro"]),
)
def test_a_plan_finds_exactly_the_policies_that_apply_each_once_in_order(
    drawn: list[tuple[Match, list[str], bool]], asked: list[tuple[Facts, tuple[str, ...]]], plan: str
) -> None:
    policies = [_policy(number, match, per, enabled=on) for number, (match, per, on) in enumerate(drawn)]
    compiled = PolicyPlan(plan, map(CompiledPolicy, reversed(policies)))
    for known, held in asked:
        selection = compiled.selection(has_key=known.key_id is not None, environment=known.environment, scopes=held)
        found = [each.policy.id for each in selection.matching(known)]
        assert found == [each.id for each in policies if each.enabled and _applies(each, known, held, plan)]


subjects = st.dictionaries(
    st.sampled_from(["ip", "key", "endpoint"]), st.sampled_from(["a", "b", "*", "GET /{id}"]), min_size=1, max_size=3
)
overrides = st.lists(
    st.tuples(subjects, st.sampled_from([None, NOW_US, NOW_US + 1])),
    max_size=8,
    unique_by=lambda drawn: tuple(sorted(item for item in drawn[0].items() if item[1] != "*")),
)


@given(drawn=overrides, asked=facts)
def test_an_override_is_exact_before_wildcard_before_the_policys_own_limit_and_ends_at_its_expiry(
    drawn: list[tuple[dict[str, str], int | None]], asked: tuple[Facts, tuple[str, ...]]
) -> None:
    per = ["ip", "key", "endpoint"]
    given_overrides = tuple(
        Override(subject=subject, limit=_limit(number + 1), expires_at_us=expires_at_us)
        for number, (subject, expires_at_us) in enumerate(drawn)
    )
    policy = _policy(0, Match(), per, overrides=given_overrides)
    known, _ = asked
    found = CompiledPolicy(policy).ask(known, NOW_US)
    endpoint = known.endpoint or pattern_subject(known.method, None)
    subject = {"ip": known.ip, "key": known.key_id, "endpoint": endpoint}
    if None in subject.values():
        assert found is None
        return
    assert found is not None
    fitting = [
        override
        for override in given_overrides
        if all(value in ("*", subject[part]) for part, value in override.subject.items())
        and (override.expires_at_us is None or override.expires_at_us > NOW_US)
    ]
    # The most parts named exactly; of two with as many, the one that names the policy's earlier parts.
    fitting.sort(key=lambda override: [part for part in per if override.subject.get(part, "*") != "*"])
    expected = max(
        fitting,
        key=lambda override: (
            sum(value != "*" for value in override.subject.values()),
            [override.subject.get(part, "*") != "*" for part in per],
        ),
        default=None,
    )
    counter, meter = found
    assert meter.limit.algorithm.requests == (10**6 if expected is None else expected.limit.algorithm.requests)
    assert counter.limit is meter.limit
    assert counter.key == CompiledPolicy(_policy(0, Match(), per)).ask(known, NOW_US)[0].key  # type: ignore[index]


@given(number=st.integers(0, 20), held=scopes, needed=scopes)
def test_callers_whom_no_policy_tells_apart_share_what_is_compiled(
    number: int, held: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    compiled = PolicyPlan("starter", [CompiledPolicy(_policy(0, Match(scopes=needed), ["ip"]))])

    def selection(*more: str) -> object:
        return compiled.selection(has_key=True, environment="live", scopes=(*held, *more))

    assert selection() is selection("unheard-of") is selection(f"customer:{number}")


def test_the_mode_of_an_override_counts_but_in_a_policy_in_shadow_all_is() -> None:
    own = Limit(id="lim", name="l", algorithm=SlidingWindow(1, SECOND_US), mode=Mode.SHADOW)
    override = Override(subject={"ip": "a"}, limit=own)
    known = Facts(tenant_id="ten", environment="live", ip="a")
    other = Facts(tenant_id="ten", environment="live", ip="b")
    for mode, modes in ((Mode.ENFORCE, [True, False]), (Mode.SHADOW, [True, True])):
        compiled = CompiledPolicy(_policy(0, Match(), ["ip"], mode=mode, overrides=(override,)))
        found = [compiled.ask(each, NOW_US) for each in (known, other)]
        assert [each is not None and each[1].shadow for each in found] == modes
