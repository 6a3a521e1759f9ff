"""Every test here runs over every store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.targets import Target, memory_target, redis_target
from tests.support.processes import Reaper
from tests.support.redis_cluster import running_cluster


@pytest.fixture(scope="session")
def redis_cluster_url(reaper: Reaper, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a Redis Cluster of three nodes; each world is on one of them."""
    request.getfixturevalue("redis_server")  # says what is missing where Redis is not installed
    with running_cluster(reaper) as cluster:
        yield cluster.url


@pytest.fixture(params=["memory", "redis", "redis_cluster"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A store whose time the test owns."""
    if request.param == "memory":
        with memory_target() as target:
            yield target
    else:
        with redis_target(request.getfixturevalue(f"{request.param}_url")) as target:
            yield target


@pytest.fixture
def twins(redis_url: str) -> Iterator[tuple[Target, Target]]:
    """The memory store and the Redis store, to be asked the same."""
    with memory_target() as memory, redis_target(redis_url) as redis:
        yield memory, redis
