"""Whether this node should get traffic, and why not."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from apishield.bootstrap import Runtime
from apishield.core.counter_keys import record_key
from apishield.core.model import SECOND_US
from apishield.errors import APIShieldError, StoreUnavailable
from apishield.stores.failover import FailoverStore
from apishield.stores.ledger_deaths import LedgerDeaths, read_deaths
from apishield.stores.redis import RedisStore

FRESH_US = 5 * SECOND_US
CHECK_TIMEOUT_SECONDS = 1.0
FULL_BELOW_BYTES = 1024**2
_NO_RECORD = record_key("readyz", "none")
_CONSEQUENCE = "each limit goes on as its on_store_failure says (by default, this node's share)"


async def reasons_against(runtime: Runtime) -> list[str]:
    """Why this node is not ready, in words for its operator; empty where it is.

    A lost Redis is no reason: checks go on as each limit's ``on_store_failure`` says, and taking every node out at once
    would end the service instead. Nor is a full disk or a dying ledger process: checks are answered and counted, what is
    refused may be sent again, and nodes that share a cause would all be taken out.
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

    Asks the store and the disk: a node that has just started, or that nobody asks, would not know.
    """
    return [*await _about_the_store(runtime), *await _about_the_ledger(runtime)]


async def _about_the_store(runtime: Runtime) -> list[str]:
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


async def _about_the_ledger(runtime: Runtime) -> list[str]:
    """What keeps events from being written down, or from getting into the ledger."""
    data_dir, events = runtime.settings.data_dir, runtime.events
    is_full, deaths = await asyncio.to_thread(_look_at, data_dir)
    warnings = []
    if is_full or not events.is_written:
        warnings.append(
            f"the disk of '{data_dir}' is full: checks are answered and counted, but reports, releases and changes may be "
            "refused (507 storage_full) until there is room"
        )
    elif not events.takes_results:
        warnings.append(
            "the spool is full, and so is what may lie beside it: reports and releases are refused (507 storage_full) until "
            "the ledger takes events"
        )
    if deaths is not None and deaths.times > 1:
        warnings.append(
            f"the ledger process died {deaths.times} times in a row, last {_how(deaths)}: events wait in the spool, and "
            "figures, receipts and bills fall behind; the log of the node says why"
        )
    return warnings


def _look_at(data_dir: Path) -> tuple[bool, LedgerDeaths | None]:
    """Whether the disk is full, and what is noted of the ledger process."""
    try:
        disk = os.statvfs(data_dir)
    except OSError:
        return False, None  # a disk whose trouble others tell of
    return disk.f_bavail * disk.f_frsize < FULL_BELOW_BYTES, read_deaths(data_dir)


def _how(deaths: LedgerDeaths) -> str:
    code = deaths.exit_code
    if code is None:
        return "because it could not be started"
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
