"""A Redis that forgot, hung, restarted or refused is asked again, and no counter is the worse for it; and its addresses."""

from __future__ import annotations

import asyncio

import pytest
import redis as redis_py

from apishield.core.model import FixedWindow, SlidingWindow
from apishield.errors import ConfigurationError, StoreUnavailable
from apishield.stores.redis import RedisStore
from apishield.stores.redis.connection import parse_address
from tests.support.redis_store import ALL, MINUTE_US, PATIENT_MS, client, counter, decide, store
from tests.support.services import RedisServer

__all__ = ["client", "store"]


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
    assert parse_address("redis+sentinel://redis:7/m").hosts == [("redis", 7)]
    cluster = parse_address("redis+cluster://:p@one,two:2")
    assert (cluster.hosts, cluster.options) == ([("one", 6379), ("two", 2)], {"password": "p"})
