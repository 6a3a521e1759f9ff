"""What the ledger says that calendar quotas have used: a lower bound, never more than was really used.

A quota counts all that its key was charged in the period, whenever the quota itself was made. Events reach the ledger within a
second or so; where the buckets around the start of the period are no longer kept (a time zone of half hours, late in a month),
the part of the first hour that can't be told apart is left out. So is use from before the service had a ledger; when
that began, an upgrade notes in ``meta``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from apishield.analytics.periods import Horizon, segments
from apishield.analytics.rollup import ADMITTED, Dims
from apishield.analytics.steps import SECOND_US, Step, ceil
from apishield.core.model import Counter, Quota
from apishield.core.rate_limiter.quota import period_of
from apishield.core.records import Environment
from apishield.services.key_entries import KeyEntry
from apishield.services.snapshot import Snapshot
from apishield.stores.sql.analytics.plan import Plan, Selection
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.unit_of_work import UnitOfWork

_KEYS_AT_ONCE: Final = 500
_REQUESTS: Final = "requests"
_SINCE: Final = "ledger_since_us"  # written by a migration


class KeyQuota(msgspec.Struct, frozen=True):
    """One quota of one key, in the period from ``start_us`` to ``end_us``."""

    tenant_id: str
    environment: Environment
    key_id: str
    counter: Counter
    start_us: int
    end_us: int


def quotas_of(entries: Iterable[KeyEntry], now_us: int) -> list[KeyQuota]:
    """The quotas of keys, in their present periods."""
    found = []
    for entry in entries:
        if entry.key.quotas:
            for counter in entry.limits.counters:
                rule = counter.limit.algorithm
                if isinstance(rule, Quota):
                    key = entry.key
                    found.append(KeyQuota(key.tenant_id, key.environment, key.id, counter, *period_of(rule, now_us)))
    return found


async def ledger_since_us(tx: UnitOfWork) -> int:
    """When the service began to keep a ledger, where it counted quotas before; else 0."""
    return int(await tx.meta.get(_SINCE) or 0)


async def ledger_use(tx: UnitOfWork, quotas: Sequence[KeyQuota], now_us: int) -> dict[tuple[str, int], int]:
    """Units used by counter key and start of the period, as far as the ledger saw them; absent means none."""
    since_us = await ledger_since_us(tx)
    groups: dict[tuple[str, Environment, int, int, str], dict[str, str]] = {}
    for quota in quotas:
        place = (quota.tenant_id, quota.environment, quota.start_us, quota.end_us, quota.counter.limit.unit)
        groups.setdefault(place, {})[quota.key_id] = quota.counter.key
    used: dict[tuple[str, int], int] = {}
    for (tenant_id, environment, start_us, end_us, unit), counter_keys in groups.items():
        reader = RollupReader(tx.connection, tenant_id, environment)
        key_ids = list(counter_keys)
        counted_us = min(max(start_us, since_us), end_us)
        for first in range(0, len(key_ids), _KEYS_AT_ONCE):
            some = key_ids[first : first + _KEYS_AT_ONCE]
            for key_id, units in (await _sums(reader, some, counted_us, end_us, unit, now_us)).items():
                used[counter_keys[key_id], start_us] = units
    return used


def tells_all_of(quota: KeyQuota, since_us: int, now_us: int) -> bool:
    """Whether ``ledger_use`` leaves nothing out of the quota's period: that began with a bucket that is kept, and no earlier
    than the ledger.
    """
    start_s = quota.start_us // SECOND_US
    return quota.start_us >= since_us and start_s % Horizon.at(now_us).finest(start_s).seconds == 0


async def seeds(
    tx: UnitOfWork, snapshot: Snapshot, counter_keys: Sequence[str], period_start_us: int, now_us: int
) -> dict[str, int]:
    """What the ledger knows of the counters with these keys in the period that began then: what to seed them with, at least."""
    wanted = set(counter_keys)
    entries = [entry for key in wanted if (entry := _entry_of(snapshot, key)) is not None]
    quotas = [
        quota
        for quota in quotas_of(entries, max(now_us, period_start_us))
        if quota.counter.key in wanted and quota.start_us == period_start_us
    ]
    used = await ledger_use(tx, quotas, now_us)
    return {counter_key: units for (counter_key, _), units in used.items()}


def _entry_of(snapshot: Snapshot, counter_key: str) -> KeyEntry | None:
    """The key whose quota has this counter."""
    tenant_id = counter_key.removeprefix("as:{").partition("}")[0]
    subject, _, key_id = counter_key.rpartition("|")[2].partition("=")
    view = snapshot.tenant(tenant_id)
    return view.keys.get(key_id) if view is not None and subject == "key" else None


async def _sums(
    reader: RollupReader, key_ids: Sequence[str], start_us: int, end_us: int, unit: str, now_us: int
) -> dict[str, int]:
    """Units by key."""
    horizon = Horizon.at(now_us)
    start_s = ceil(start_us // SECOND_US, Step.MINUTE)
    start_s = ceil(start_s, horizon.finest(start_s))  # inwards: what is older must not count
    plan = Plan(Dims.KEY, segments(start_s * SECOND_US, end_us, horizon), Selection(codes=frozenset({ADMITTED})))
    groups = [(key_id,) for key_id in key_ids]
    if unit == _REQUESTS:
        return {str(key_id): sums.cost for (key_id,), sums in await reader.sums(plan, ("key_id",), groups)}
    found = await reader.units(plan, ("key_id",), groups)
    return {str(key_id): cost for (key_id,), name, cost in found if name == unit}
