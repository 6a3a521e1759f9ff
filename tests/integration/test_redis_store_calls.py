"""The checks of one turn go to Redis in few calls and are decided in order; what waits for them does not make Redis silent."""

from __future__ import annotations

import asyncio
import sys

import pytest
import redis as redis_py

from apishield.core.model import SECOND_US, FixedWindow, Quota, SlidingWindow, Verdict
from apishield.errors import StoreUnavailable
from apishield.stores.redis import RedisStore
from apishield.stores.redis.link import Call
from tests.support.redis_store import ALL, MINUTE_US, client, counter, decide, store
from tests.support.services import RedisServer

__all__ = ["client", "store"]


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


async def test_what_waits_behind_our_own_calls_is_not_taken_for_a_silent_redis(redis_url: str) -> None:
    wide = [counter(rule) for rule in (SlidingWindow(10**6, MINUTE_US), FixedWindow(10**6, MINUTE_US), Quota(10**6))]
    store = RedisStore(redis_url, timeout_ms=300)  # longer than a busy machine holds Redis up
    await decide(store, *wide)
    asked = [asyncio.ensure_future(decide(store, *wide)) for _ in range(40_000)]  # many times as long
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


async def test_decides_by_the_servers_time(store: RedisStore, client: redis_py.Redis) -> None:
    seconds, microseconds = client.time()
    before_us = seconds * SECOND_US + microseconds
    verdict = await decide(store, counter(ALL[1]))
    seconds, microseconds = client.time()
    assert before_us <= verdict.now_us <= seconds * SECOND_US + microseconds


async def test_many_processes_admit_exactly_the_limit(redis_url: str, client: redis_py.Redis) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.hammer", redis_url, "1000", "500", stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    outputs = [await process.communicate() for process in processes]
    assert sum(int(output) for output, _ in outputs) == 1000
