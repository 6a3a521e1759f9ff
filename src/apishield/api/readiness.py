"""Whether this node should get traffic, and why not."""

from __future__ import annotations

import asyncio

from apishield.bootstrap import Runtime
from apishield.core.counter_keys import record_key
from apishield.core.model import SECOND_US
from apishield.errors import APIShieldError, StoreUnavailable
from apishield.stores.failover import FailoverStore
from apishield.stores.redis import RedisStore

FRESH_US = 5 * SECOND_US
CHECK_TIMEOUT_SECONDS = 1.0
_NO_RECORD = record_key("readyz", "none")
_CONSEQUENCE = "each limit goes on as its on_store_failure says (by default, this node's share)"


async def reasons_against(runtime: Runtime) -> list[str]:
    """Why this node is not ready, in words for its operator; empty where it is.

    A lost Redis is no reason: checks go on as each limit's ``on_store_failure`` says, and taking every node out at once
    would end the service instead.
    """
    reasons = []
    age_us = runtime.snapshot.age_us()
    if age_us > FRESH_US:
        reasons.append(f"the keys were last read {age_us // SECOND_US} seconds ago; more than 5 is stale")
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await runtime.database.check()
    except TimeoutError:
        reasons.append(f"the database did not answer within {CHECK_TIMEOUT_SECONDS:g} second")
    except APIShieldError as error:
        reasons.append(str(error))
    return reasons


async def warnings_about(runtime: Runtime) -> list[str]:
    """What is wrong with this node although it should get traffic.

    Asks the store: a node that has just started, or that nobody asks, would not know.
    """
    store = runtime.store
    if not isinstance(store, FailoverStore):
        return []
    if store.is_degraded:
        return [f"Redis can't be reached: {_CONSEQUENCE}"]
    try:
        await store.held(_NO_RECORD)
    except StoreUnavailable as error:
        return [f"{str(error).rstrip('.')}: {_CONSEQUENCE}"]
    return store.primary.warnings() if isinstance(store.primary, RedisStore) else []
