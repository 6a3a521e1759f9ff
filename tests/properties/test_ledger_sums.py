"""However events are cut into intakes, killed, repeated and shared between workers: the ledger's sums are the events' sums."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from apishield.analytics.histogram import Histogram
from apishield.core.events import (
    CATALOGUED,
    TEST,
    CountEvent,
    DecisionEvent,
    Event,
    Frame,
    Intake,
    ResultEvent,
    SpoolPart,
)
from apishield.services.ledger import Fenced, LedgerService
from apishield.services.ledger_batch import Batch
from apishield.stores.sql.database import Database
from tests.support.clock import SECOND_US, START_US, ManualClock
from tests.support.ledger import decision, frames, result, settlement

runs = itertools.count(1)
HOUR_US = 3600 * SECOND_US
BASE_US = START_US // HOUR_US * HOUR_US + HOUR_US - 60 * SECOND_US  # the hour turns within the events
STEPS = {"minute": 60, "hour": 3600, "day": 86_400}
DIMENSIONS = {
    "tenant": (),
    "key": ("key_id", "customer_id"),
    "endpoint": ("endpoint", "method"),
    "country": ("country",),
    "full": ("key_id", "customer_id", "endpoint", "method", "country"),
}


class KilledError(Exception):
    """The worker ends here."""


class Worker(LedgerService):
    """A worker that can be killed when all is written and nothing is committed."""

    kill = False

    async def _write(self, connection: AsyncConnection, rows: Any, batch: Batch) -> None:
        await super()._write(connection, rows, batch)
        if self.kill:
            raise KilledError


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Event]], list[tuple[int, int, int, str]]]:
    """What each of two spools holds, and the order in which which worker takes how many frames of which, and how it ends."""
    spools: list[list[Event]] = [[], []]
    decided: list[tuple[int, DecisionEvent]] = []
    for sequence in range(1, draw(st.integers(1, 25)) + 1):
        home = draw(st.integers(0, 1))
        code = draw(st.sampled_from(["ok", "ok", "ok", "rate_limited"]))
        made = decision(
            sequence,
            BASE_US + draw(st.integers(0, 150)) * SECOND_US,
            code=code,
            flags=CATALOGUED | draw(st.sampled_from([0, 0, TEST])),
            key_id=draw(st.sampled_from([None, "key_1", "key_2"])),
            endpoint=draw(st.sampled_from(["/a", "/b"])),
            country=draw(st.sampled_from([None, "DE", "FR"])),
            units=draw(st.sampled_from([1, 3, {"requests": 1, "tokens": 50}])),
        )
        decided.append((home, made))
        spools[home].append(made)
    for home, made in decided:
        told: list[Event] = []
        if draw(st.booleans()):
            told += [result(made, spool=home, latency_us=draw(st.integers(0, 10**6)))] * draw(st.integers(1, 3))
        if made.code == "ok" and draw(st.integers(0, 3)) == 0:
            told.append(settlement(made, {"requests": draw(st.integers(0, 9)), "tokens": 7}, spool=home))
        for event in told:
            place = spools[draw(st.integers(0, 1))]
            place.insert(draw(st.integers(0, len(place))), event)
    spools[0].append(CountEvent(BASE_US, decided[0][1].tenant_id, "rate_limited", 0, 40, units=40, results={429: 2}))
    schedule = draw(
        st.lists(
            st.tuples(
                st.integers(0, 1),  # spool
                st.integers(0, 1),  # worker
                st.integers(1, 8),  # frames
                st.sampled_from(["ends well", "ends well", "killed", "answer lost"]),
            ),
            max_size=12,
        )
    )
    return spools, schedule


Key = tuple[str, str, int, tuple[str, ...]]


def expected(spools: list[list[Event]]) -> dict[Key, Counter[str]]:
    """The sums of all events, counted one by one: by step, set, bucket and dimensions."""
    made = {(event.sequence): event for events in spools for event in events if isinstance(event, DecisionEvent)}
    sums: defaultdict[Key, Counter[str]] = defaultdict(Counter)

    def add(of: DecisionEvent | CountEvent, **measures: int) -> None:
        environment = "test" if of.flags & TEST else "live"
        for (step, seconds), (dims, names) in itertools.product(STEPS.items(), DIMENSIONS.items()):
            bucket_s = of.at_us // SECOND_US // seconds * seconds
            values = tuple(getattr(of, name) or "" for name in names)
            sums[step, dims, bucket_s, (environment, of.code, *values)].update(measures)

    told: set[int] = set()
    for event in itertools.chain(*spools):
        if isinstance(event, DecisionEvent):
            units = {"requests": event.units} if isinstance(event.units, int) else event.units
            add(event, requests=1, **({"cost": units["requests"]} if event.code == "ok" else {"status_4xx": 1}))
        elif isinstance(event, CountEvent):
            add(event, requests=event.count, status_4xx=event.count, results=2)
        elif isinstance(event, ResultEvent):
            if event.sequence not in told:
                told.add(event.sequence)
                of = made[event.sequence]
                ok = {"status_2xx": 1} if of.code == "ok" else {}
                add(of, results=1, latency_us=event.latency_us, bytes=event.bytes or 0, values=1, **ok)
        else:
            of = made[event.sequence]
            before = of.units if isinstance(of.units, int) else of.units["requests"]
            add(of, cost=event.units["requests"] - before)
    return {key: +counts for key, counts in sums.items()}


async def written(database: Database, tenant_id: str) -> dict[Key, Counter[str]]:
    """The same, as the tables have it."""
    sums: dict[Key, Counter[str]] = {}
    measures = ("requests", "cost", "bytes", "results", "status_2xx", "status_4xx", "latency_us")
    async with database.read() as work:
        for step, (dims, names) in itertools.product(STEPS, DIMENSIONS.items()):
            statement = (
                f"SELECT s.*, ss.environment, r.* FROM rollup_{step} r JOIN series s ON s.id = r.series_id "
                "JOIN series_sets ss ON ss.id = s.set_id WHERE ss.tenant_id = :tenant AND ss.dims = :dims"
            )
            for row in (await work.connection.execute(text(statement), {"tenant": tenant_id, "dims": dims})).mappings():
                counts = Counter({name: row[name] for name in measures})
                counts["values"] = Histogram.from_bytes(row["latency"]).count if row["latency"] else 0
                key = (row["environment"], row["code"], *(row[name] for name in names))
                sums[step, dims, row["bucket"], key] = +counts
    return sums


async def tokens(database: Database, tenant_id: str) -> int:
    statement = (
        "SELECT coalesce(sum(u.cost), 0) FROM rollup_units u JOIN series_sets ss ON ss.id = u.set_id "
        "WHERE ss.tenant_id = :tenant AND ss.dims = 'tenant' AND u.step = 'day'"
    )
    async with database.read() as work:
        return int(await work.connection.scalar(text(statement), {"tenant": tenant_id}) or 0)


async def take(url: str, spools: list[list[Event]], schedule: list[tuple[int, int, int, str]], run: int) -> None:
    """Takes all that the spools hold, by the schedule first, and compares."""
    tenant_id = f"ten_{run}"
    owned = [[replaced(event, run, tenant_id) for event in events] for events in spools]
    turns = [frames([[event] for event in events]) for events in owned]
    clock = ManualClock(BASE_US + HOUR_US // 2)
    database = Database(url, clock)
    workers = [Worker(database, clock) for _ in range(2)]
    for spool, number, count, ending in [*schedule, (0, 0, 99, "ends well"), (1, 1, 99, "ends well")]:
        worker = workers[number]
        stream = f"spool:{run * 2 + spool:08x}"
        claim = await worker.claim(stream, f"worker {number}")
        some: list[Frame] = [frame for frame in turns[spool] if frame.end > claim.position][:count]
        if not some:
            continue
        intake = Intake(stream, claim.position, some[-1].end, [SpoolPart(run * 2 + spool, some)])
        worker.kill = ending == "killed"
        try:
            await worker.apply(claim, intake)
            if ending == "answer lost":
                with pytest.raises(Fenced):
                    await worker.apply(claim, intake)
        except KilledError:
            workers[number] = Worker(database, clock)  # a new process, which remembers nothing
    for worker in itertools.islice(itertools.cycle(workers), 6):
        clock.advance(60)
        await worker.settle_pending()
    assert await written(database, tenant_id) == expected(owned)
    assert await tokens(database, tenant_id) == expected_tokens(owned)
    await database.close()


def replaced(event: Event, run: int, tenant_id: str) -> Event:
    """The event as one of this run's tenant and spools."""
    fields: dict[str, Any] = {"tenant_id": tenant_id}
    if not isinstance(event, DecisionEvent | CountEvent):
        fields["spool"] = run * 2 + event.spool
    return msgspec.structs.replace(event, **fields)


def expected_tokens(spools: list[list[Event]]) -> int:
    cost: dict[int, int] = {}
    for event in itertools.chain(*spools):
        if isinstance(event, DecisionEvent) and event.code == "ok":
            cost.setdefault(event.sequence, 0 if isinstance(event.units, int) else event.units["tokens"])
    for event in itertools.chain(*spools):
        if not isinstance(event, DecisionEvent | CountEvent | ResultEvent):
            cost[event.sequence] = event.units["tokens"]
    return sum(cost.values())


@pytest.fixture(scope="module")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return migrated(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/apishield.db")


@pytest.fixture
def migrated_postgres_url(postgres_url: str) -> str:
    return migrated(postgres_url)


def migrated(url: str) -> str:
    async def migrate() -> None:
        database = Database(url, ManualClock())
        await database.migrate()
        await database.close()

    asyncio.run(migrate())
    return url


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(history=histories())
def test_sums_are_the_events_sums_on_sqlite(sqlite_url: str, history: Any) -> None:
    spools, schedule = history
    asyncio.run(take(sqlite_url, spools, schedule, next(runs)))


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(history=histories())
def test_sums_are_the_events_sums_on_postgresql(migrated_postgres_url: str, history: Any) -> None:
    spools, schedule = history
    asyncio.run(take(migrated_postgres_url, spools, schedule, next(runs)))
