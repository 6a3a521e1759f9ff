"""An upgrade from a version without a ledger keeps what keys have used, and finds no drift in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from alembic import command
from sqlalchemy import Connection, select, text

from apishield.analytics.rollup import Dims
from apishield.core.model import SECOND_US, Limit, Quota
from apishield.core.rate_limiter.quota import period_of
from apishield.services.analytics.questions import Filters, ask
from apishield.services.analytics.service import AnalyticsService
from apishield.services.analytics.summaries import PeriodSummary
from apishield.services.quota_use import quotas_of
from apishield.services.reconcile import LOOKS
from apishield.services.rollup_checks import rollup_drift
from apishield.stores.sql import migrate
from apishield.stores.sql.database import Database
from apishield.stores.sql.engine import WRITES
from apishield.stores.sql.ledger.tables import series_sets
from tests.support.checks import make_key
from tests.support.clock import ManualClock
from tests.support.node import running_node

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(int(NOW.timestamp()) * SECOND_US)


@pytest_asyncio.fixture
async def old(database_url: str, clock: ManualClock) -> AsyncIterator[Database]:
    """A database of the version before."""
    database = Database(database_url, clock)
    await database.migrate()
    await go_back(database)
    yield database
    await database.close()


async def go_back(database: Database) -> None:
    """Makes it one that has not been migrated to 0005 yet."""

    def to_0004(connection: Connection) -> None:
        configuration = migrate._configuration()
        configuration.attributes["connection"] = connection
        command.stamp(configuration, "0004")

    async with database.engine.connect() as connection:
        await connection.execution_options(**{WRITES: True})
        async with connection.begin():
            await connection.execute(
                text(
                    "CREATE TABLE usage_day (tenant_id TEXT NOT NULL, key_id TEXT NOT NULL, day TEXT NOT NULL, "
                    "allowed BIGINT NOT NULL, refused BIGINT NOT NULL, PRIMARY KEY (tenant_id, key_id, day))"
                )
            )
            for column in ("key_id", "customer_id"):
                await connection.execute(text(f"DROP INDEX ix_series_set_id_{column}"))
            await connection.execute(text("DROP TABLE rollup_week"))
            await connection.run_sync(to_0004)


async def note(database: Database, tenant_id: str, key_id: str, days_ago: int, allowed: int, refused: int) -> None:
    """What the version before wrote down for one day."""
    day = (NOW - timedelta(days=days_ago)).strftime("%Y-%m-%d")
    row = {"tenant_id": tenant_id, "key_id": key_id, "day": day, "allowed": allowed, "refused": refused}
    async with database.transaction() as tx:
        statement = text("INSERT INTO usage_day VALUES (:tenant_id, :key_id, :day, :allowed, :refused)")
        await tx.connection.execute(statement, row)


async def test_an_upgrade_carries_daily_totals_into_every_grouping_set(old: Database, clock: ManualClock) -> None:
    await note(old, "ten_1", "key_1", 0, 5, 2)
    await note(old, "ten_1", "key_1", 3, 10, 0)
    await note(old, "ten_1", "key_2", 3, 1, 1)
    await note(old, "ten_2", "key_3", 200, 0, 4)
    await old.migrate()
    found = await summary(old, clock, "ten_1", "now-4d")
    assert (found.figures.sums.requests, found.figures.sums.allowed, found.figures.sums.refused) == (19, 16, 3)
    assert found.figures.sums.cost == 16
    assert (found.refused_by_code, found.active_keys) == ({"unknown": 3}, 2)
    assert (await summary(old, clock, "ten_1", "now-4d", key_id="key_2")).figures.sums.requests == 2
    assert (await summary(old, clock, "ten_1", "now-4d", outcome="refused")).figures.sums.requests == 3
    assert (await summary(old, clock, "ten_2", "now-300d")).refused_by_code == {"unknown": 4}
    async with old.read() as tx:
        sets = set(await tx.connection.scalars(select(series_sets.c.dims).where(series_sets.c.tenant_id == "ten_1")))
    assert sets == {str(dims) for dims in Dims}
    assert await rollup_drift(old, clock) == []
    assert await exported_keys(old, clock, "ten_2", "now-300d") == {
        "key_3": 4
    }  # refused nobody knows why, and nothing else


async def test_days_that_the_ledger_has_counted_are_not_counted_again(old: Database, clock: ManualClock) -> None:
    await note(old, "ten_1", "key_1", 1, 5, 0)
    await old.migrate()
    await go_back(old)
    await note(old, "ten_1", "key_1", 1, 5, 0)
    await note(old, "ten_1", "key_1", 2, 7, 0)
    await old.migrate()
    assert (await summary(old, clock, "ten_1", "now-4d")).figures.sums.requests == 12


async def test_an_upgrade_sums_the_days_of_keys_by_week(old: Database, clock: ManualClock) -> None:
    """As the ledger would have; what leaves 64 bits, for somebody made figures up, stops no upgrade."""
    for days_ago in range(20):
        await note(old, "ten_1", "key_1", days_ago, 3, 2)
    await note(old, "ten_1", "key_2", 0, 2**61, 0)
    await note(old, "ten_1", "key_2", 1, 2**61 + 2**31, 1)
    await note(old, "ten_2", "key_3", 0, 2**53 + 1, 0)
    await old.migrate()
    assert [drift for drift in await rollup_drift(old, clock) if drift.tenant_id != "ten_1"] == []
    async with old.read() as tx:
        statement = text(
            "SELECT key_id, code, bucket % 604800, sum(requests), sum(cost), count(*) FROM rollup_week r "
            "JOIN series s ON s.id = r.series_id GROUP BY 1, 2, 3 ORDER BY 1, 2"
        )
        found = [
            (key_id, code, *map(int, numbers)) for key_id, code, *numbers in await tx.connection.execute(statement)
        ]
    assert found == [
        ("key_1", "ok", 0, 60, 60, 4),
        ("key_1", "unknown", 0, 40, 0, 4),
        ("key_2", "ok", 0, 2**62, 2**62, 1),
        ("key_2", "unknown", 0, 1, 0, 1),
        ("key_3", "ok", 0, 2**53 + 1, 2**53 + 1, 1),
    ]


async def test_a_database_without_history_is_not_taken_for_an_older_one(old: Database) -> None:
    await old.migrate()
    async with old.read() as tx:
        assert await tx.meta.get("ledger_since_us") is None


async def test_keys_show_what_they_used_before_and_no_drift_is_seen_in_their_quotas(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    """The environment and the customer are the key's. The quota stands at more than the ledger ever saw, rightly."""
    url = None if database_url.startswith("sqlite") else database_url
    rule = Quota(1000, "month", "UTC")
    limit = Limit(id="", name="monthly", algorithm=rule)
    async with running_node(tmp_path, clock, database_url=url) as node:
        tenant = await node.tenant()
        key_id, _ = await make_key(tenant, quotas=(limit,))
        test_id, _ = await make_key(tenant, environment="test")
        database = node.runtime.database
        view = node.runtime.snapshot.tenant(tenant.id)
        assert view is not None
        (quota,) = quotas_of([view.keys[key_id]], clock())
        start_us, _ = period_of(rule, clock())
        node.runtime.usage.note(quota.counter.key, start_us, 400, clock())
        await node.runtime.usage.flush()
        await go_back(database)
        await note(database, tenant.id, key_id, 0, 5, 2)
        await note(database, tenant.id, key_id, 3, 10, 0)
        await note(database, tenant.id, test_id, 0, 3, 0)
        await database.migrate()
        async with database.transaction() as tx:  # the migration's own clock is the machine's
            await tx.meta.put("ledger_since_us", str(clock()))
        owner = tenant.owner
        for asked, today, month, allowed in ((key_id, 7, 17, 15), (test_id, 3, 3, 3)):
            key = await node.runtime.keys.get(owner, asked)
            totals = (await node.runtime.usage.key_usage(owner, key)).totals
            assert (totals.today, totals.this_month, totals.allowed) == (today, month, allowed)
        for _ in range(LOOKS + 1):
            assert await node.runtime.reconciler.step() == []
        assert node.runtime.reconciler.stats.checked == 1
        assert node.runtime.reconciler.stats.orphan_charges == 0


async def exported_keys(database: Database, clock: ManualClock, tenant_id: str, from_: str) -> dict[str, int]:
    """The requests of each key, as an export has them."""
    question = ask(tenant_id, Filters(), now_us=clock(), from_=from_)
    analytics = AnalyticsService(database, clock)
    table = await analytics.export(question, "key", by_day=False)
    return {row.labels[0]: row.sums.requests async for page in analytics.export_pages(table) for row in page}


async def summary(database: Database, clock: ManualClock, tenant_id: str, from_: str, **filters: Any) -> PeriodSummary:
    """The figures of a period up to now."""
    question = ask(tenant_id, Filters(**filters), now_us=clock(), from_=from_, to=None, time_zone="UTC")
    return (await AnalyticsService(database, clock).summary(question)).now
