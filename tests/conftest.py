"""What all tests share: real services, an owned clock, and an environment without settings of whoever runs them."""

from __future__ import annotations

import os
import signal
from collections import Counter

import hypothesis
import pytest
from _pytest.nodeid import coerce_node_id

from tests.support.clock import ManualClock
from tests.support.service import shared_service, start_service
from tests.support.services import postgres_server, postgres_url, reaper, redis_server, redis_url

__all__ = [
    "clock",
    "postgres_server",
    "postgres_url",
    "reaper",
    "redis_server",
    "redis_url",
    "shared_service",
    "start_service",
]

# ``services`` has read these at its import; the code under test must not see them.
for _name in list(os.environ):
    if _name.startswith("APISHIELD_") or _name.removesuffix("_FILE") in {"DATABASE_URL", "REDIS_URL"}:
        del os.environ[_name]

# A script that starts the tests in its background ignores Ctrl-C, and so would the services they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared cores make deadlines flaky. HYPOTHESIS_PROFILE=thorough looks longer than a test run should take. The gate takes the
# same examples each time: a change must not be refused for what it did not touch. New ones are for whoever works on it.
hypothesis.settings.register_profile(
    "ci", max_examples=75, deadline=None, print_blob=True, derandomize="CI" in os.environ
)
hypothesis.settings.register_profile("thorough", max_examples=2_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each test an id of its own: of those that share one, as Schemathesis makes them, xdist runs but one."""
    seen: Counter[str] = Counter()
    for item in items:
        nodeid = item.nodeid
        seen[nodeid] += 1
        if seen[nodeid] > 1:
            item._id = coerce_node_id(f"{nodeid}[{seen[nodeid]}]")  # pytest has no public way


@pytest.fixture
def clock() -> ManualClock:
    """Time that stands still until the test moves it."""
    return ManualClock()
