"""The throwaway Redis and PostgreSQL do what the other tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis

from tests.support.processes import alive, wait_until
from tests.support.services import PostgresServer, RedisServer


def test_each_test_gets_an_empty_redis(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


test_and_the_next_one_does_too = test_each_test_gets_an_empty_redis


def test_each_test_gets_an_empty_database(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
        connection.execute("CREATE TABLE left_behind ()")


test_and_the_next_database_is_empty_too = test_each_test_gets_an_empty_database


def test_a_frozen_redis_answers_nothing_until_it_goes_on(redis_server: RedisServer) -> None:
    redis_server.heal()
    with redis.Redis.from_url(redis_server.url, socket_timeout=0.2, retry=None) as client:
        redis_server.stop()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        redis_server.cont()
    with redis_server.client() as client:
        assert client.ping()


def test_a_killed_server_is_back_on_the_same_port(redis_server: RedisServer, postgres_server: PostgresServer) -> None:
    redis_server.kill()
    postgres_server.kill()
    assert not redis_server.running
    assert not postgres_server.running
    redis_server.heal()
    postgres_server.heal()
    with redis_server.client() as client, psycopg.connect(postgres_server.admin_url) as connection:
        assert client.ping()
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_servers_and_their_files_end_with_the_test_run_however_it_ends(ending: signal.Signals) -> None:
    script = """
import sys, time
from tests.support.processes import Reaper
from tests.support.services import RedisServer, _find
server = RedisServer(Reaper(), str(_find("redis-server", package="redis-server")))
server.stop()
print(server.pid, server.log_path.parent, flush=True)
time.sleep(60)
"""
    root = Path(__file__).parents[2]
    run = subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert run.stdout is not None
    pid, directory = run.stdout.readline().split()
    os.kill(run.pid, ending)
    run.wait(10)
    run.stdout.close()
    wait_until(lambda: not alive(int(pid)) and not Path(directory).exists(), "the server to end", timeout_seconds=10)
