"""How long each question to the analytics takes: a tenant with 10,000 series in each of the large grouping sets, 30 days.

``python -m benchmarks.analytics [--database-url postgresql://…] [--series 10000] [--rounds 7] [--tokens]``: without a URL on
SQLite; with ``--tokens`` whatever is admitted costs some, too, as it does of language models.

The tables are filled as the ledger would have filled them, straight, with what these questions touch: a row a day for every
series, hours in which a quarter of the keys is active, minutes in which a twentieth is. A row's histogram holds 40 results, as
many in a minute as in a day. Nothing costs other units than requests: who has such costs is asked for them with each answer.
A whole export reads all of its pages, and its first page is what a reader waits for.
The time is that of the whole answer, merging of histograms included, without HTTP. Processor time, the least of all rounds, is
what a machine with other work to do can still compare: of this process, all that SQLite does included, and of PostgreSQL's
where it runs on this machine (Linux).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from sqlalchemy import Table, text

from apishield.analytics.histogram import Histogram
from apishield.analytics.periods import MINUTE_DAYS
from apishield.analytics.rollup import Dims
from apishield.analytics.steps import DAY_S, HOUR_S, MINUTE_S, SECOND_US, WEEK_S, Step
from apishield.core.records import Environment
from apishield.services.analytics.questions import Filters, Question, ask
from apishield.services.analytics.service import AnalyticsService
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.tables import (
    MEASURES,
    rollup_day,
    rollup_hour,
    rollup_minute,
    rollup_units,
    rollup_week,
    series,
    series_sets,
)
from benchmarks.processes import cpu_seconds
from benchmarks.table import print_table

NOW_S = 1_795_000_000 // DAY_S * DAY_S + 3 * DAY_S + 14 * HOUR_S + 30 * MINUTE_S
"""So that the period holds three whole weeks, the fewest that 30 days can, and nine days around them."""

NOW_US = NOW_S * SECOND_US
DAYS = 30
KOLKATAS_MIDNIGHT_S = 18 * HOUR_S + 30 * MINUTE_S
TENANT = "ten_bench"
ENDPOINTS, COUNTRIES = 200, 40
ACTIVE = {Step.DAY: 1.0, Step.HOUR: 0.25, Step.MINUTE: 0.05}
_ROWS_AT_ONCE = 20_000
_FEW = 1_000

Row = tuple[Any, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The time of each question to the analytics")
    parser.add_argument("--database-url", help="an empty PostgreSQL database; SQLite where it is absent")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", action="store_true", help="costs in a second unit for all that is admitted")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="apishield-bench-") as directory:
        url = options.database_url or f"sqlite:///{Path(directory)}/bench.db"
        asyncio.run(_run(url, options.series, options.rounds, tokens=options.tokens))


async def _run(url: str, count: int, rounds: int, *, tokens: bool) -> None:
    database = Database(url, lambda: NOW_US)
    await database.migrate()
    began = time.perf_counter()
    rows = await Filling(database, count).fill(tokens=tokens)
    print(f"{rows:,} rows of rollups in {time.perf_counter() - began:.0f} s")
    analytics = AnalyticsService(database, lambda: NOW_US)
    server = await _server(database)
    results = []
    for title, answer in _questions(analytics):
        measured = [await _measured(answer, server) for _ in range(rounds)]
        spent, worked, served = zip(*measured, strict=True)
        times = (statistics.median(spent), min(spent), max(spent), min(worked))
        of_server = "-" if server is None else f"{min(served) * 1000:.1f}"
        results.append([title, *(f"{seconds * 1000:.1f}" for seconds in times), of_server])
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    columns = ["question", "median ms", "min", "max", "processor ms here", "PostgreSQL's"]
    print_table(f"{kind}: 30 days, {count:,} series{', with tokens' if tokens else ''}", columns, results)
    await database.close()


async def _server(database: Database) -> int | None:
    """The process that answers on PostgreSQL's side: always the same, as one question is asked at a time."""
    if database.is_sqlite:
        return None
    async with database.read() as tx:
        process = int(await tx.connection.scalar(text("SELECT pg_backend_pid()")) or 0)
    name = Path(f"/proc/{process}/comm")
    return process if name.exists() and name.read_text().startswith("postgres") else None


async def _measured(answer: Callable[[], Awaitable[Any]], server: int | None) -> tuple[float, float, float]:
    """Seconds of the clock, of this process, of the server's."""
    served = 0.0 if server is None else cpu_seconds(server)
    began, work_began = time.perf_counter(), time.process_time()
    await answer()
    spent, worked = time.perf_counter() - began, time.process_time() - work_began
    return spent, worked, 0.0 if server is None else cpu_seconds(server) - served


def _questions(analytics: AnalyticsService) -> Iterator[tuple[str, Callable[[], Awaitable[Any]]]]:
    month = _question()
    yield "summary", lambda: analytics.summary(month)
    yield "summary of the last 24 hours", lambda: analytics.summary(_question("now-24h"))
    yield "summary of one key", lambda: analytics.summary(_question(key_id=_key(17)))
    yield (
        "summary of one country's key (all dimensions)",
        lambda: analytics.summary(_question(key_id=_key(17), country="C3")),
    )
    yield "timeseries by day", lambda: analytics.timeseries(month, Step.DAY, None, limit=10)
    yield "timeseries by hour", lambda: analytics.timeseries(month, Step.HOUR, None, limit=10)
    yield "timeseries by day, top 10 keys", lambda: analytics.timeseries(month, Step.DAY, "key", limit=10)
    yield (
        "timeseries by day of Kolkata, top 10 endpoints",
        lambda: analytics.timeseries(_question(time_zone="Asia/Kolkata"), Step.DAY, "endpoint", limit=10),
    )
    yield "endpoints", lambda: analytics.breakdown(month, "endpoint", order="requests", limit=20)
    yield "endpoints by error rate", lambda: analytics.breakdown(month, "endpoint", order="error_rate", limit=20)
    yield "endpoints by p95", lambda: analytics.breakdown(month, "endpoint", order="p95", limit=20)
    yield (
        "endpoints of one key",
        lambda: analytics.breakdown(_question(key_id=_key(17)), "endpoint", order="requests", limit=20),
    )
    yield (
        "endpoints in one country (all dimensions)",
        lambda: analytics.breakdown(_question(country="C3"), "endpoint", order="requests", limit=20),
    )
    yield "keys", lambda: analytics.breakdown(month, "key", order="requests", limit=20)
    yield (
        "keys of the last 24 hours",
        lambda: analytics.breakdown(_question("now-24h"), "key", order="requests", limit=20),
    )
    yield "customers", lambda: analytics.breakdown(month, "customer", order="requests", limit=20)
    yield "countries", lambda: analytics.breakdown(month, "country", order="requests", limit=20)
    yield "export by key, first page", lambda: _export(analytics, month, most_pages=1)
    yield "export by key, whole", lambda: _export(analytics, month)


def _question(from_: str = "now-30d", time_zone: str = "UTC", **filters: Any) -> Question:
    return ask(TENANT, Filters(**filters), now_us=NOW_US, from_=from_, time_zone=time_zone)


async def _export(analytics: AnalyticsService, question: Question, most_pages: int | None = None) -> int:
    table = await analytics.export(question, "key", by_day=False)
    rows = pages = 0
    async with aclosing(analytics.export_pages(table)) as found:
        async for page in found:
            rows, pages = rows + len(page), pages + 1
            if pages == most_pages:
                break
    return rows


def _at_edges(step: Step, starts: Sequence[int]) -> Sequence[int]:
    """Of the series with keys only such hours and minutes are read as lie at the edges of a period."""
    if step is Step.HOUR:
        return [start for start in starts if start < starts[0] + DAY_S or start >= NOW_S - 2 * DAY_S]
    if step is Step.MINUTE:
        return [start for start in starts if NOW_S - DAY_S <= start < NOW_S - DAY_S + HOUR_S]
    return starts


def _key(number: int) -> str:
    return f"key_{number:026d}"


class Filling:
    """Fills the rollups of one tenant."""

    def __init__(self, database: Database, count: int) -> None:
        self._database = database
        self._count = count
        self._random = random.Random(1)
        self._latencies = [self._latency() for _ in range(64)]

    def _latency(self) -> bytes:
        histogram = Histogram()
        for _ in range(40):
            histogram.add(round(self._random.lognormvariate(10, 1)))
        return histogram.to_bytes()

    async def fill(self, *, tokens: bool) -> int:
        """Returns how many rows of rollups were written."""
        sets = {dims: number for number, dims in enumerate(Dims, 1)}
        live = Environment.LIVE.value
        await self._write(series_sets, ((number, TENANT, live, dims.value) for dims, number in sets.items()))
        found = [(number, *row) for number, row in enumerate(self._series(sets), 1)]
        await self._write(series, iter(found))
        written = 0
        today = NOW_S // DAY_S * DAY_S
        last_hour = NOW_S // HOUR_S * HOUR_S
        edge_hour = range(NOW_S - DAY_S, NOW_S - DAY_S + HOUR_S, MINUTE_S)
        midnights = range(today - MINUTE_DAYS * DAY_S + KOLKATAS_MIDNIGHT_S, NOW_S, DAY_S)
        around = [at for midnight in midnights for at in range(midnight - HOUR_S, midnight + HOUR_S, MINUTE_S)]
        for table, step, starts in (
            (rollup_day, Step.DAY, range(today - (2 * DAYS + 1) * DAY_S, today + 1, DAY_S)),
            (rollup_hour, Step.HOUR, range(today - DAYS * DAY_S, last_hour + 1, HOUR_S)),
            (rollup_minute, Step.MINUTE, sorted({*edge_hour, *around})),
        ):
            written += await self._write(table, self._rows(step, starts, found))
            if tokens:
                written += await self._cost_tokens(step, table)
        written += await self._sum_weeks(sets[Dims.KEY])
        async with self._database.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text("ANALYZE" if self._database.is_sqlite else "VACUUM ANALYZE"))
        return written

    def _series(self, sets: dict[Dims, int]) -> Iterator[Row]:
        """A tenant's series: many keys, each calling a few endpoints from one country; one in ten is refused at times."""
        chance = self._random
        for code in ("ok", "rate_limited", "key_unknown"):
            yield (sets[Dims.TENANT], code, "", "", "", "", "")
        for number in range(ENDPOINTS):
            for code in ("ok", "rate_limited"):
                yield (sets[Dims.ENDPOINT], code, "", "", f"/e{number}/{{id}}", "GET", "")
        for number in range(COUNTRIES):
            for code in ("ok", "rate_limited"):
                yield (sets[Dims.COUNTRY], code, "", "", "", "", f"C{number}")
        for number in range(self._count):
            key, customer = _key(number), f"cus_{number // 4:026d}"
            code = "rate_limited" if chance.random() < 0.1 else "ok"
            yield (sets[Dims.KEY], code, key, customer, "", "", "")
            endpoint = f"/e{chance.randrange(ENDPOINTS)}/{{id}}"
            yield (sets[Dims.FULL], code, key, customer, endpoint, "GET", f"C{chance.randrange(COUNTRIES)}")

    def _rows(self, step: Step, starts: Sequence[int], found: Sequence[Row]) -> Iterator[Row]:
        """Rows in the order of the key: as a ledger that is some days old has them."""
        chance, latencies = self._random, self._latencies
        large = {number for number, row in enumerate(found) if row[3]}  # those with a key
        for set_id in range(1, len(Dims) + 1):
            members = [(number, row) for number, row in enumerate(found) if row[1] == set_id]
            for start in starts if len(members) <= _FEW else _at_edges(step, starts):
                for number, row in members:
                    if number in large and chance.random() > ACTIVE[step]:
                        continue
                    requests = chance.randrange(1, 100)
                    ok = row[2] == "ok"
                    yield (
                        set_id, start, row[0], requests, requests if ok else 0, 512 * requests if ok else 0,
                        requests if ok else 0, 0, requests if ok else 0, 0, 0 if ok else requests, 0,
                        requests * 20_000 if ok else 0, latencies[requests % 64] if ok else None,
                    )  # fmt: skip

    async def _cost_tokens(self, step: Step, table: Table) -> int:
        """Costs of 700 tokens a request for each row with requests that were admitted."""
        statement = (
            f"INSERT INTO {rollup_units.name} SELECT '{step.value}', set_id, bucket, series_id, 'tokens', 700 * cost "
            f"FROM {table.name} WHERE cost > 0 ORDER BY set_id, bucket, series_id"
        )
        async with self._database.transaction() as tx:
            return (await tx.connection.execute(text(statement))).rowcount

    async def _sum_weeks(self, set_id: int) -> int:
        """The weeks of keys, from their days."""
        sums = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in MEASURES)
        statement = (
            f"INSERT INTO {rollup_week.name} SELECT set_id, bucket - bucket % {WEEK_S}, series_id, {sums} "
            f"FROM {rollup_day.name} WHERE set_id = {set_id} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        )
        async with self._database.transaction() as tx:
            return (await tx.connection.execute(text(statement))).rowcount

    async def _write(self, table: Table, rows: Iterable[Row]) -> int:
        written, batch = 0, list[Row]()
        names = [column.name for column in table.c]
        for row in rows:
            batch.append(row)
            if len(batch) == _ROWS_AT_ONCE:
                written += await self._insert(table, names, batch)
                batch = []
        return written + (await self._insert(table, names, batch) if batch else 0)

    async def _insert(self, table: Table, names: Sequence[str], batch: Sequence[Row]) -> int:
        async with self._database.transaction() as tx:
            if self._database.is_sqlite:
                places = ", ".join("?" for _ in names)
                await tx.connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({places})", list(batch))
            else:
                raw = await tx.connection.get_raw_connection()
                cursor: Any = raw.driver_connection.cursor()  # type: ignore[union-attr]
                async with cursor, cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
                    for row in batch:
                        await copy.write_row(row)
        return len(batch)


if __name__ == "__main__":
    main()
