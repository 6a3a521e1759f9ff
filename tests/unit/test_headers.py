"""The headers are structured fields that any parser reads (draft-ietf-httpapi-ratelimit-headers-10, RFC 9651)."""

from __future__ import annotations

from typing import Any

import http_sf
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.headers import policy_item, rate_limit_headers, restriction
from apishield.core.model import (
    SECOND_US,
    Algorithm,
    Concurrency,
    FixedWindow,
    Limit,
    Quota,
    SlidingWindow,
    TokenBucket,
)
from apishield.core.outcome import Outcome
from apishield.core.policies import Meter
from apishield.core.rate_limiter.verdict import new_state

algorithms = st.one_of(
    st.builds(FixedWindow, st.integers(1, 10**9), st.integers(SECOND_US, 31 * 86_400 * SECOND_US)),
    st.builds(SlidingWindow, st.integers(1, 10**9), st.integers(SECOND_US, 31 * 86_400 * SECOND_US)),
    st.builds(TokenBucket, st.integers(1, 10**9), st.integers(SECOND_US, 10**12), st.integers(1, 10**9)),
    st.builds(Concurrency, st.integers(1, 10**9), st.integers(SECOND_US, 10**12)),
    st.builds(Quota, st.integers(1, 10**9), st.sampled_from(["day", "month"])),
)
outcomes = st.builds(
    Outcome,
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.one_of(st.none(), st.integers(1, 10**12)),
    st.integers(0, 10**13),
)


def _limit(name: str, algorithm: Algorithm, unit: str = "requests") -> Limit:
    return Limit(id="lim_1", name=name, algorithm=algorithm, unit=unit)


def _rows(limits: list[tuple[Limit, Outcome]]) -> list[tuple[Meter, Outcome]]:
    return [(Meter(limit), outcome) for limit, outcome in limits]


@given(
    st.lists(
        st.tuples(st.text(max_size=30), algorithms, st.sampled_from(["requests", "tokens", "bytes"]), outcomes),
        max_size=5,
    )
)
def test_any_structured_fields_parser_reads_both_headers(drawn: list[tuple[str, Algorithm, str, Outcome]]) -> None:
    limits = [(_limit(name, algorithm, unit), outcome) for name, algorithm, unit, outcome in drawn]
    headers = rate_limit_headers(_rows(limits), 10**15)
    if not limits:
        assert headers == {}
        return
    policy: Any = http_sf.parse(headers["RateLimit-Policy"].encode(), tltype="list")
    state: Any = http_sf.parse(headers["RateLimit"].encode(), tltype="list")
    assert [item[0] for item in policy] == [item[0] for item in state]
    for (limit, outcome), (_, of_policy), (_, of_state) in zip(limits, policy, state, strict=True):
        assert of_policy["q"] == limit.algorithm.ceiling
        assert of_state["r"] == max(0, outcome.remaining)
        assert of_state["t"] * SECOND_US >= outcome.reset_us > (of_state["t"] - 1) * SECOND_US


def test_the_legacy_trio_speaks_of_the_first_limit_and_rounds_the_reset_up() -> None:
    limits = [
        (_limit("burst", SlidingWindow(10, SECOND_US)), Outcome(True, 3, 0, 1)),
        (_limit("daily", SlidingWindow(100, 86_400 * SECOND_US)), Outcome(True, 90, 0, 5 * SECOND_US)),
    ]
    headers = rate_limit_headers(_rows(limits), 1_000 * SECOND_US)
    assert headers["X-RateLimit-Limit"] == "10"
    assert headers["X-RateLimit-Remaining"] == "3"
    assert headers["X-RateLimit-Reset"] == "1001"
    assert headers["RateLimit-Policy"] == '"burst";q=10;w=1, "daily";q=100;w=86400'
    assert headers["RateLimit"] == '"burst";r=3;t=1, "daily";r=90;t=5'


def test_a_bucket_that_takes_ages_to_fill_says_no_more_than_a_structured_field_can() -> None:
    algorithm = TokenBucket(1, 31 * 86_400 * SECOND_US, 10**9)
    state = new_state(algorithm)
    headers = rate_limit_headers(_rows([(_limit("ages", algorithm), state.charge(0, 10**9))] * 2), 0)
    for name, parameter in (("RateLimit-Policy", "w"), ("RateLimit", "t")):
        items: Any = http_sf.parse(headers[name].encode(), tltype="list")
        assert [parameters[parameter] for _, parameters in items] == [10**15 - 1] * 2


def test_either_kind_of_header_can_be_switched_off() -> None:
    limits = _rows([(_limit("a", SlidingWindow(10, SECOND_US)), Outcome(True, 3, 0, 1))])
    assert set(rate_limit_headers(limits, 0, legacy=False)) == {"RateLimit-Policy", "RateLimit"}
    assert set(rate_limit_headers(limits, 0, draft=False)) == {
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
    }


def test_the_most_restrictive_limit_comes_first() -> None:
    wide = Meter(_limit("wide", SlidingWindow(1000, SECOND_US)))
    tight = Meter(_limit("tight", SlidingWindow(10, SECOND_US)))
    ordered = sorted(
        [
            (wide, Outcome(True, 900, 0, 1)),
            (tight, Outcome(True, 8, 0, 1)),
            (wide, Outcome(False, 0, 5, 1)),
            (tight, Outcome(False, 0, 50, 1)),
            (tight, Outcome(False, 9, None, 1)),
        ],
        key=restriction,
    )
    assert [outcome.retry_after_us for _, outcome in ordered] == [None, 50, 5, 0, 0]
    assert ordered[3][0] is tight


def test_of_a_bucket_the_quota_is_a_full_bucket_and_its_window_the_time_to_fill_it() -> None:
    bucket = _limit("burst", TokenBucket(5, 60 * SECOND_US, 20))
    assert policy_item(bucket) == '"burst";q=20;w=240'
    headers = rate_limit_headers(_rows([(bucket, Outcome(True, 19, 0, 12 * SECOND_US))]), 0)
    assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("20", "19")
