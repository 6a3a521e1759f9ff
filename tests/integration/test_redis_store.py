"""The Redis store against a real Redis: what it keeps there, what it sends, and what it does when the server misbehaves."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import redis as redis_py

from apishield.core.counter_keys import counter_key, once_key
from apishield.core.model import (
    Algorithm,
    Concurrency,
    Counter,
    FixedWindow,
    Limit,
    Once,
    Quota,
    SlidingWindow,
    TokenBucket,
    Verdict,
)
from apishield.core.ports import CounterStore
from apishield.errors import ConfigurationError, CounterUnreadable, StoreUnavailable
from apishield.stores.redis import RedisStore
from apishield.stores.redis.connection import parse_address
from apishield.stores.redis.link import Call
from tests.conformance.targets import redis_target
from tests.support.services import RedisServer

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_MS = 86_400_000
PATIENT_MS = 10_000
ALL: list[Algorithm] = [
    FixedWindow(5, MINUTE_US),
    SlidingWindow(5, MINUTE_US),
    TokenBucket(5, MINUTE_US, 5),
    Quota(5),
    Concurrency(5, MINUTE_US),
]


def counter(rule: Algorithm, subject: str = "a", tenant: str = "ten_1") -> Counter:
    limit = Limit(id=f"lim_{type(rule).__name__}", name="x", algorithm=rule)
    return Counter(counter_key(tenant, "live", limit, {"key": subject}), limit)


async def decide(store: CounterStore, *counters: Counter, cost: int = 1, check_id: str = "dec_1") -> Verdict:
    verdict = store.decide(counters, [cost] * len(counters), check_id)
    return verdict if isinstance(verdict, Verdict) else await verdict


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_url, timeout_ms=PATIENT_MS)
    yield store
    await store.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis_py.Redis]:
    with redis_py.Redis.from_url(redis_url) as client:
        yield client


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


async def test_the_checks_of_a_turn_are_decided_in_order_and_see_each_others_charges(store: RedisStore) -> None:
    subject = counter(SlidingWindow(150, MINUTE_US))
    verdicts = await asyncio.gather(*(decide(store, subject) for _ in range(200)))
    assert [verdict.admitted for verdict in verdicts] == [True] * 150 + [False] * 50
    assert [verdict.outcomes[0].remaining for verdict in verdicts[:150]] == list(range(149, -1, -1))


async def test_the_checks_of_a_turn_go_out_as_one_call_of_up_to_32_for_each_tenant(
    store: RedisStore, client: redis_py.Redis
) -> None:
    await decide(store, counter(ALL[0]))
    client.config_resetstat()
    await asyncio.gather(
        *(decide(store, counter(ALL[0], f"a{number}")) for number in range(100)),
        *(decide(store, counter(ALL[0], f"b{number}", "ten_2")) for number in range(10)),
    )
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 5


async def test_redis_gets_the_first_checks_of_a_full_turn_before_the_last_are_written(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = 0
    sent: list[tuple[int, str]] = []
    send = store.servers.send

    def note(key: str, packed: bytes, call: Call) -> None:
        sent.append((turn, key))
        send(key, packed, call)

    await decide(store, counter(ALL[0]))
    monkeypatch.setattr(store.servers, "send", note)
    crowd = [counter(ALL[0], f"a{number}") for number in range(100)]
    few = [counter(ALL[0], "b", f"few_{number}") for number in range(10)]
    asked = [store.decide([each], [1]) for each in crowd + few]
    while len(sent) < 4 + len(few):
        turn += 1
        await asyncio.sleep(0)
    await asyncio.gather(*(each for each in asked if not isinstance(each, Verdict)))
    turns = [[key for at, key in sent if at == each] for each in sorted({at for at, _ in sent})]
    assert turns == [
        [crowd[0].key],
        [crowd[32].key],
        [crowd[64].key],
        [crowd[96].key, *(each.key for each in few)],
    ]


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


async def test_decides_by_the_servers_time(store: RedisStore, client: redis_py.Redis) -> None:
    seconds, microseconds = client.time()
    before_us = seconds * SECOND_US + microseconds
    verdict = await decide(store, counter(ALL[1]))
    seconds, microseconds = client.time()
    assert before_us <= verdict.now_us <= seconds * SECOND_US + microseconds


async def test_a_script_that_the_server_forgot_is_loaded_again(store: RedisStore, client: redis_py.Redis) -> None:
    await decide(store, counter(ALL[0]))
    client.script_flush()
    verdicts = await asyncio.gather(*(decide(store, counter(ALL[0])) for _ in range(9)))
    assert sum(verdict.admitted for verdict in verdicts) == 4


async def test_a_lost_connection_is_made_again(store: RedisStore, client: redis_py.Redis) -> None:
    await decide(store, counter(ALL[0]))
    client.client_kill_filter(_type="normal", skipme=True)
    for _ in range(50):
        try:
            verdict = await decide(store, counter(ALL[0]))
        except StoreUnavailable:
            continue
        assert verdict.outcomes[0].remaining == 3
        return
    pytest.fail("never connected again")


async def test_a_restarted_server_is_found_again(redis_server: RedisServer, store: RedisStore) -> None:
    await decide(store, counter(ALL[0]))
    redis_server.restart()
    for _ in range(50):
        try:
            await decide(store, counter(ALL[0]))
        except StoreUnavailable:
            continue
        return
    pytest.fail("never connected again")


async def test_a_server_that_hangs_costs_the_time_out_and_its_late_answers_harm_nobody(
    redis_server: RedisServer, redis_url: str
) -> None:
    store = RedisStore(redis_url, timeout_ms=50)
    subject = counter(SlidingWindow(100, MINUTE_US))
    await decide(store, subject)
    redis_server.stop()
    with pytest.raises(StoreUnavailable, match="within 50 ms"):
        await decide(store, subject)
    redis_server.cont()
    for _ in range(50):
        try:
            verdict = await decide(store, subject, cost=0)
        except StoreUnavailable:
            continue
        assert verdict.outcomes[0].remaining == 98  # the call that timed out has run, once
        break
    await store.close()


async def test_a_replica_is_no_place_for_counters_and_is_left_as_soon_as_it_is_one(
    store: RedisStore, client: redis_py.Redis
) -> None:
    await decide(store, counter(ALL[0]))
    client.replicaof("127.0.0.1", 1)
    with pytest.raises(StoreUnavailable, match="READONLY"):
        await decide(store, counter(ALL[0]))
    client.replicaof("NO", "ONE")
    assert (await decide(store, counter(ALL[0]))).admitted


async def test_a_server_out_of_memory_is_unavailable_and_charges_nothing(
    store: RedisStore, client: redis_py.Redis
) -> None:
    pair = [counter(FixedWindow(100, MINUTE_US)), counter(SlidingWindow(100, MINUTE_US))]
    await decide(store, *pair)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="OOM"):
            await decide(store, *pair)
    finally:
        client.config_set("maxmemory", 0)
    assert [outcome.remaining for outcome in (await decide(store, *pair, cost=0)).outcomes] == [99, 99]


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


async def test_acl_users_and_passwords_are_used(redis_url: str, client: redis_py.Redis) -> None:
    client.acl_setuser(
        "limiter", enabled=True, passwords=["+s3cret/?"], keys=["as:*"], categories=["+@all", "-@dangerous"]
    )
    address = redis_url.replace("redis://", "redis://limiter:s3cret%2F%3F@")
    store = RedisStore(address, timeout_ms=PATIENT_MS)
    assert (await decide(store, *map(counter, ALL))).admitted
    await store.close()
    wrong = RedisStore(redis_url.replace("redis://", "redis://limiter:wrong@"), timeout_ms=PATIENT_MS)
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        await decide(wrong, counter(ALL[0]))
    await wrong.close()
    client.acl_deluser("limiter")


async def test_many_processes_admit_exactly_the_limit(redis_url: str, client: redis_py.Redis) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.hammer", redis_url, "1000", "500", stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    outputs = [await process.communicate() for process in processes]
    assert sum(int(output) for output, _ in outputs) == 1000


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://localhost", "'http' is not a scheme"),
        ("redis+mesh://localhost", "'redis+mesh' is not a scheme"),
        ("redis+sentinel://localhost:26379", "names no service"),
        ("redis://localhost:port", "REDIS_URL can't be used"),
        ("redis+cluster://localhost:1,other:port", "REDIS_URL can't be used"),
    ],
)
def test_an_address_that_cant_be_used_says_why(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why.replace("+", r"\+")):
        parse_address(url)


def test_addresses_of_sentinels_and_clusters_are_read_whole() -> None:
    sentinel = parse_address("rediss+sentinel://u:p%40@one:1,[::1]:2/primary/3?sentinel_password=s&ssl_cert_reqs=none")
    assert (sentinel.hosts, sentinel.service, sentinel.uses_tls) == ([("one", 1), ("::1", 2)], "primary", True)
    assert sentinel.options == {"username": "u", "password": "p@", "db": 3, "ssl_cert_reqs": "none"}
    assert sentinel.sentinel_options == {"password": "s"}
    cluster = parse_address("redis+cluster://:p@one,two:2")
    assert (cluster.hosts, cluster.options) == ([("one", 6379), ("two", 2)], {"password": "p"})


async def test_what_waits_behind_our_own_calls_is_not_taken_for_a_silent_redis(redis_url: str) -> None:
    wide = [counter(rule) for rule in (SlidingWindow(10**6, MINUTE_US), FixedWindow(10**6, MINUTE_US), Quota(10**6))]
    store = RedisStore(redis_url, timeout_ms=60)
    await decide(store, *wide)
    asked = [asyncio.ensure_future(decide(store, *wide)) for _ in range(40_000)]  # many times 60 ms of Redis' work
    verdicts = await asyncio.gather(*asked, return_exceptions=True)
    await store.close()
    assert all(isinstance(verdict, Verdict) and verdict.admitted for verdict in verdicts)


async def test_a_silent_redis_fails_those_who_wait_to_be_sent_with_those_who_were(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, timeout_ms=60)
    wide = counter(SlidingWindow(1_000_000, MINUTE_US))
    await decide(store, wide)
    redis_server.stop()
    try:
        asked = [asyncio.ensure_future(decide(store, wide)) for _ in range(5_000)]
        verdicts = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        redis_server.cont()
    assert all(isinstance(verdict, StoreUnavailable) for verdict in verdicts)
    assert len({id(verdict) for verdict in verdicts}) == len(
        verdicts
    )  # one for all would hold on to what each had done
    await store.close()
