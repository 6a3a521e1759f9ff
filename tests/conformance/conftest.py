"""Every test here runs over every store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.targets import Target, memory_target, redis_target


@pytest.fixture(params=["memory", "redis"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A store whose time the test owns."""
    if request.param == "memory":
        with memory_target() as target:
            yield target
    else:
        with redis_target(request.getfixturevalue("redis_url")) as target:
            yield target


@pytest.fixture
def twins(redis_url: str) -> Iterator[tuple[Target, Target]]:
    """The memory store and the Redis store, to be asked the same."""
    with memory_target() as memory, redis_target(redis_url) as redis:
        yield memory, redis
