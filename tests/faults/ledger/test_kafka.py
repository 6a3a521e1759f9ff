"""Nodes, workers, the broker and the database of a cluster are killed at random moments: the ledger is what was answered."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from tests.faults.ledger.campaign import run_seed
from tests.faults.ledger.cluster import KafkaTarget
from tests.support.kafka import KafkaServer, kafka_server
from tests.support.processes import Reaper
from tests.support.services import PostgresServer, RedisServer

__all__ = ["kafka_server"]

pytestmark = pytest.mark.timeout(900)  # many starts of processes, on whatever machine
SEEDS = 2


@pytest.fixture(scope="module")
def target(
    reaper: Reaper,
    tmp_path_factory: pytest.TempPathFactory,
    kafka_server: KafkaServer,
    postgres_server: PostgresServer,
    redis_server: RedisServer,
) -> Iterator[KafkaTarget]:
    """A cluster with an empty database and topics of its own; each seed has a tenant of its own."""
    for server in (kafka_server, postgres_server, redis_server):
        server.heal()
    name = f"faults_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    target = KafkaTarget(
        reaper,
        tmp_path_factory.mktemp("cluster"),
        kafka_server,
        postgres_server,
        database_url=postgres_server.url_of(name),
        redis_url=redis_server.url,
        topic=name,
    )
    yield target
    target.close()


async def test_the_ledger_is_what_was_answered_whatever_is_killed(target: KafkaTarget, seed: int) -> None:
    outcome = await run_seed(seed, target)
    assert outcome.decisions
