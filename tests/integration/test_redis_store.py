"""What lies in Redis is small, expires with its use, is rebuilt from the ledger, and spoils only its own checks if spoilt."""

from __future__ import annotations

import asyncio

import pytest
import redis as redis_py

from apishield.core.counter_keys import once_key
from apishield.core.model import (
    SECOND_US,
    Algorithm,
    Concurrency,
    FixedWindow,
    Once,
    Quota,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.errors import CounterUnreadable, StoreUnavailable
from apishield.stores.redis import RedisStore
from tests.conformance.targets import redis_target
from tests.support.redis_store import ALL, MINUTE_US, PATIENT_MS, client, counter, decide, store

__all__ = ["client", "store"]

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("rule", "longest_ms"),
    [
        (FixedWindow(5, MINUTE_US), 60_000),
        (FixedWindow(5, SECOND_US), 1_000),
        (SlidingWindow(5, MINUTE_US), 60_000),
        (SlidingWindow(5, SECOND_US), 1_000),
        (TokenBucket(5, MINUTE_US, 5), 36_000),  # three of five a minute are back after 36 seconds
        (TokenBucket(10**9, SECOND_US, 5), 1_000),
        (TokenBucket(1, 31 * 86_400 * SECOND_US, 10**9), 3 * 31 * DAY_MS),
        (Quota(5, "day"), DAY_MS),
        (Quota(5, "month"), 31 * DAY_MS),
        (Concurrency(5, MINUTE_US), 60_000),
        (Concurrency(5, SECOND_US), 1_000),
    ],
    ids=repr,
)
async def test_every_key_expires_and_none_outlives_its_use(
    store: RedisStore, client: redis_py.Redis, rule: Algorithm, longest_ms: int
) -> None:
    for number in range(3):
        await decide(store, counter(rule), check_id=f"dec_{number}")
        assert 0 < client.pttl(counter(rule).key) <= longest_ms
    await store.charge([counter(rule)], [0])
    if isinstance(rule, Concurrency):
        await store.release([counter(rule)], [1], "dec_1")
    assert list(client.scan_iter()) == [counter(rule).key.encode()]
    assert client.pttl(counter(rule).key) > 0


@pytest.mark.parametrize("period", [FixedWindow(9, 1000 * DAY_MS), Quota(9)], ids=["fixed window", "quota"])
async def test_a_counter_is_kept_to_the_end_of_its_window_however_often_it_is_charged(
    period: Algorithm, store: RedisStore, client: redis_py.Redis
) -> None:
    first = await decide(store, counter(period))
    ends_ms = (first.now_us + first.outcomes[0].reset_us) // 1000

    def left_ms() -> int:
        seconds, microseconds = client.time()
        return int(ends_ms - (seconds * 1_000_000 + microseconds) // 1000)

    for _ in range(3):
        await decide(store, counter(period))
        before_ms, kept_ms, after_ms = left_ms(), client.pttl(counter(period).key), left_ms()
        assert after_ms - 2 <= kept_ms <= max(before_ms + 2, 1000)


async def test_what_is_kept_of_a_check_that_is_decided_once_lives_a_minute_and_is_small(
    store: RedisStore, client: redis_py.Redis
) -> None:
    once = Once(once_key("ten_1", "a check"), "0" * 32)
    for cost in (1, 6):  # admitted, and the repeat, which must not begin the minute anew
        verdict = store.decide_once(once, [counter(rule) for rule in ALL], [cost] * len(ALL), "dec_" + "1" * 39)
        assert (verdict if isinstance(verdict, Verdict) else await verdict).admitted
    assert 0 < client.pttl(once.key) <= 60_000
    assert client.strlen(once.key) <= 200 + 250 * len(ALL)


async def test_looking_and_being_refused_leave_no_keys(store: RedisStore, client: redis_py.Redis) -> None:
    rates = [counter(rule) for rule in ALL if not isinstance(rule, Quota)]  # what a quota's ledger said is kept
    await decide(store, *rates, cost=0)
    await decide(store, *rates, cost=6)
    assert list(client.scan_iter()) == []


async def test_a_limit_of_all_strangers_bounds_the_counters_that_they_make(
    store: RedisStore, client: redis_py.Redis
) -> None:
    together = counter(FixedWindow(20, 31 * 86_400 * SECOND_US), "all")
    verdicts = await asyncio.gather(
        *(decide(store, counter(SlidingWindow(60, MINUTE_US), f"192.0.2.{number}"), together) for number in range(200))
    )
    assert [verdict.admitted for verdict in verdicts] == [True] * 20 + [False] * 180
    assert len(list(client.scan_iter())) == 20 + 1


@pytest.mark.parametrize("requests", [10, 1000, 10**9])
def test_a_sliding_window_keeps_at_most_16_kib_and_little_where_the_limit_is_small(
    redis_url: str, requests: int
) -> None:
    with redis_target(redis_url) as target, redis_py.Redis.from_url(redis_url) as client:
        subject = target.counter("a", SlidingWindow(requests, 1000 * SECOND_US))
        for step in range(2500):
            target.clock.now_us += SECOND_US + step % 3
            target.decide([subject], [1])
        assert client.strlen(subject.key) <= min(16_384, 600 + 12 * requests)


async def test_a_quota_is_seeded_once_and_by_whoever_comes_first(store: RedisStore, redis_url: str) -> None:
    quota = counter(Quota(100))
    ledger = LedgerOf({quota.key: 40})
    late = LedgerOf({quota.key: 0})
    stores = [RedisStore(redis_url, each, timeout_ms=PATIENT_MS) for each in (ledger, late)]
    first = await decide(stores[0], quota)
    second = await decide(stores[1], quota)
    assert [first.outcomes[0].remaining, second.outcomes[0].remaining] == [59, 58]
    assert (ledger.loads, late.loads) == (1, 0)
    assert (ledger.noted, late.noted) == ({quota.key: 41}, {quota.key: 42})
    for each in stores:
        await each.close()


async def test_a_quota_lost_with_redis_is_rebuilt_from_the_ledger(redis_url: str, client: redis_py.Redis) -> None:
    quota = counter(Quota(100))
    ledger = LedgerOf({})
    store = RedisStore(redis_url, ledger, timeout_ms=PATIENT_MS)
    await decide(store, quota, cost=30)
    client.flushall()
    assert (await decide(store, quota, cost=30)).outcomes[0].remaining == 40
    await store.close()


async def test_a_quota_of_unknown_use_is_not_decided(redis_url: str) -> None:
    ledger = LedgerOf({})
    ledger.is_gone = True
    store = RedisStore(redis_url, ledger, timeout_ms=PATIENT_MS)
    with pytest.raises(StoreUnavailable, match="ledger"):
        await decide(store, counter(Quota(100)))
    await store.close()


class LedgerOf:
    """Durable use of quotas, in a dictionary."""

    def __init__(self, used: dict[str, int]) -> None:
        self.used = used
        self.noted: dict[str, int] = {}
        self.loads = 0
        self.is_gone = False

    async def load(self, counter_keys: object, period_start_us: int) -> dict[str, int]:
        self.loads += 1
        if self.is_gone:
            raise OSError("no database")
        return self.used | self.noted

    def note(self, counter_key: str, period_start_us: int, used: int, at_us: int) -> None:
        self.noted[counter_key] = used


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("theirs", [["theirs"], "theirs", "theirs" * 30], ids=["list", "text", "long text"])
async def test_what_somebody_else_wrote_over_a_counter_fails_its_own_checks_alone_and_charges_nothing_of_them(
    store: RedisStore, client: redis_py.Redis, rule: Algorithm, theirs: list[str] | str
) -> None:
    spoilt, others = counter(rule, "spoilt"), [counter(each) for each in ALL]
    if isinstance(theirs, list):
        client.rpush(spoilt.key, *theirs)
    else:
        client.set(spoilt.key, theirs)
    checks = [[*others, spoilt] if number in (1, 3) else others for number in range(6)]
    verdicts = await asyncio.gather(
        *(decide(store, *check, check_id=f"dec_{number}") for number, check in enumerate(checks)),
        return_exceptions=True,
    )
    assert [isinstance(verdict, CounterUnreadable) for verdict in verdicts] == [n in (1, 3) for n in range(6)]
    assert spoilt.key in str(verdicts[1])
    admitted = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
    assert [[each.remaining for each in verdict.outcomes] for verdict in admitted] == [[n] * 5 for n in (4, 3, 2, 1)]
    for number in range(3):  # those two hold no slots, so one of five is left, and it is the last
        verdict = await decide(store, *others, check_id=f"more_{number}")
        assert (verdict.admitted, verdict.outcomes[-1].remaining) == (number == 0, 0)


async def test_a_reset_takes_away_what_somebody_else_wrote_over_a_counter(
    store: RedisStore, client: redis_py.Redis
) -> None:
    counters = [counter(rule) for rule in ALL]
    for each in counters:
        client.rpush(each.key, "theirs")
    await store.reset(counters)
    assert (await decide(store, *counters)).admitted


async def test_a_name_that_somebody_else_took_fails_its_own_check_alone(
    store: RedisStore, client: redis_py.Redis
) -> None:
    name = Once(once_key("ten_1", "a check"), "0" * 32)
    client.rpush(name.key, "theirs")
    subject = counter(ALL[0])
    named = store.decide_once(name, [subject], [1], "dec_1")
    verdict = await decide(store, subject)
    with pytest.raises(CounterUnreadable, match="WRONGTYPE"):
        assert isinstance(named, Verdict) or await named
    assert verdict.outcomes[0].remaining == 4
