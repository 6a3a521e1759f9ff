"""A decision's JSON is written by hand for speed; it says what the struct says, in the same order, whatever is in it."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from apishield.core.decided import Decided, Whose
from apishield.core.decision import Decision, KeyView
from apishield.core.model import Limit, Mode, Verdict
from apishield.core.outcome import Outcome
from apishield.core.policies import Meter
from apishield.core.records import Environment
from apishield.core.rendering import Rendered, render
from tests.unit.test_headers import algorithms

HARD = '"remaining":0,"reset_seconds":0.0,"violated":false \\ \n ü €'
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.just(HARD)
meters = st.builds(
    lambda name, unit, algorithm, mode, policy: Meter(
        Limit(id="lim_1", name=name, algorithm=algorithm, unit=unit, mode=mode), policy_id=policy
    ),
    texts,
    st.sampled_from(["requests", "tokens", "bytes"]),
    algorithms,
    st.sampled_from(Mode),
    st.none() | st.just("pol_1"),
)
outcomes = st.builds(
    Outcome,
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.none() | st.integers(1, 10**12),
    st.integers(0, 9 * 10**18),  # in milliseconds no more than a float holds: 285,000 years
)
keys = st.none() | st.builds(
    KeyView,
    st.just("key_1"),
    texts,
    st.tuples(texts),
    st.sampled_from(Environment),
    st.none() | texts,
    st.dictionaries(texts, st.none() | st.integers(-(2**53), 2**53) | texts, max_size=2),
)


def _verdict(standings: list[tuple[Meter, Outcome]], now_us: int) -> Rendered:
    enforced = [outcome.admitted for meter, outcome in standings if not meter.shadow]
    verdict = Verdict(all(enforced), now_us, [outcome for _, outcome in standings])
    return render([meter for meter, _ in standings], verdict)


rendered = st.builds(_verdict, st.lists(st.tuples(meters, outcomes), max_size=25), st.integers(0, 10**17)) | st.builds(
    Rendered, st.just("key_unknown"), texts, st.integers(0, 10**17)
)


@given(rendered=rendered, key=keys, degraded=st.booleans(), draft=st.booleans(), legacy=st.booleans())
def test_the_json_says_what_the_struct_says(
    rendered: Rendered, key: KeyView | None, degraded: bool, draft: bool, legacy: bool
) -> None:
    status = {"ok": 200, "key_unknown": 401}.get(rendered.code, 429)
    decided = Decided(status, "dec_1", Whose.of("ten_1", key), rendered, degraded, draft, legacy)
    decision = decided.decision()
    assert msgspec.json.decode(decided.json(), type=Decision) == decision
    assert list(msgspec.json.decode(decided.json())) == list(Decision.__struct_fields__)
    assert list(msgspec.json.decode(decided.json())["headers"]) == list(decision.headers)
