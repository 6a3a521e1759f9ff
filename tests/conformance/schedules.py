"""What may happen to a store: limits of all kinds, and checks in time."""

from __future__ import annotations

from hypothesis import strategies as st

from apishield.core.model import Algorithm, Concurrency, FixedWindow, Quota, SlidingWindow, TokenBucket

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US

windows_us = st.one_of(
    st.sampled_from([SECOND_US, 10 * SECOND_US, 60 * SECOND_US, 3600 * SECOND_US, 31 * DAY_US]),
    st.integers(SECOND_US, 3 * SECOND_US),  # not whole seconds: slots then don't divide the window
)
units = st.one_of(st.integers(1, 8), st.integers(1, 200), st.sampled_from([1_000, 999_999_937, 1_000_000_000]))

fixed_windows = st.builds(FixedWindow, units, windows_us)
sliding_windows = st.builds(SlidingWindow, units, windows_us)
token_buckets = st.builds(TokenBucket, units, windows_us, units)
concurrencies = st.builds(Concurrency, st.integers(1, 8), windows_us)
quotas = st.builds(
    Quota,
    units,
    st.sampled_from(["day", "month"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Havana", "Asia/Kathmandu", "Pacific/Kiritimati"]),
)
rules = st.one_of(sliding_windows, fixed_windows, token_buckets, concurrencies, quotas)


def pauses_us(rule: Algorithm) -> st.SearchStrategy[int]:
    """Pauses that are telling for ``rule``: none, tiny, around a slot, around a window, long."""
    span = DAY_US if isinstance(rule, Quota) else rule.timeout_us if isinstance(rule, Concurrency) else rule.window_us
    return st.one_of(
        st.just(0),
        st.integers(1, 2_000),
        st.integers(0, span // 500),
        st.integers(0, span // 3),
        st.sampled_from([span // 1000, span // 1000 + 1, span - 1, span, span + 1, 3 * span]),
    )


def costs(rule: Algorithm) -> st.SearchStrategy[int]:
    """Costs that are telling for ``rule``: peeks, one, a few, about all of it, too much."""
    most = rule.burst if isinstance(rule, TokenBucket) else rule.requests
    return st.one_of(
        st.just(1),
        st.just(0),
        st.integers(1, 3),
        st.sampled_from([max(1, most // 2), max(1, most - 1), most, most + 1]),
    )


@st.composite
def histories(draw: st.DrawFn, rule: st.SearchStrategy[Algorithm] = rules) -> tuple[Algorithm, list[tuple[int, int]]]:
    """A limit, and checks of it as (pause before, cost)."""
    chosen = draw(rule)
    return chosen, draw(st.lists(st.tuples(pauses_us(chosen), costs(chosen)), max_size=40))
