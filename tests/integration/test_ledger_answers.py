"""What the metrics say of the answers of protected APIs is what the ledger counts, however often each was told, and where."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from apishield.core.events import PEEK, CountEvent, Event
from apishield.services.analytics.questions import Filters, ask
from apishield.services.analytics.service import AnalyticsService
from apishield.services.ledger import LedgerService
from apishield.stores.sql.database import Database
from apishield.telemetry import Metrics
from tests.integration.test_ledger_once import KilledBeforeCommit, KilledError
from tests.support.clock import ManualClock
from tests.support.ledger import TENANT, decision, intake, result
from tests.support.prometheus import read_samples


class Worker:
    """A worker with numbers and a spool of its own."""

    def __init__(self, number: int, database: Database, clock: ManualClock) -> None:
        self.metrics = Metrics()
        self.metrics.show_answers()
        self.ledger = LedgerService(database, clock, observer=self.metrics)
        self._spool = number

    async def take(self, events: Sequence[Event]) -> None:
        claim = await self.ledger.claim(f"spool:{self._spool:08x}", "test")
        await self.ledger.apply(claim, intake(events, start=claim.position, spool=self._spool))


def shown(*workers: Worker) -> tuple[dict[str, float], float]:
    """By class of status what the metrics of all workers show together, and of how many the latency."""
    classes, latencies = Counter[str](), 0.0
    for worker in workers:
        samples = read_samples(worker.metrics.render()[0])
        classes.update(
            {labels[1]: int(count) for labels, count in samples.items() if labels[0] == "apishield_results_total"}
        )
        latencies += samples["apishield_result_seconds_count",]
    return dict(classes), latencies


async def counted(database: Database, clock: ManualClock) -> dict[str, float]:
    """The same, as the ledger's summary says."""
    question = ask(TENANT, Filters(outcome="allowed"), now_us=clock())
    sums = (await AnalyticsService(database, clock).summary(question)).now.figures.sums
    assert sum(sums.statuses) == sums.results
    return {f"{kind}xx": count for kind, count in enumerate(sums.statuses, 1) if count}


async def test_the_metrics_of_all_workers_say_what_the_ledger_counts(database: Database, clock: ManualClock) -> None:
    one, other = Worker(0xA1, database, clock), Worker(0xB2, database, clock)
    made = [decision(number, clock()) for number in range(1, 9)]
    refused, peek = decision(9, clock(), code="rate_limited"), decision(10, clock(), flags=PEEK)
    late = decision(11, clock())
    statuses = (200, 200, 204, 302, 404, 500, 503, 101)
    told = [result(each, spool=0xA1, status=status) for each, status in zip(made, statuses, strict=True)]
    folded = CountEvent(clock() // 60_000_000 * 60_000_000, TENANT, "ok", 0, 5, "key_1", results={200: 3, 502: 1})
    await one.take([*made, refused, peek, *told[:5], *told[:3], folded])
    await other.take([*told, *told, result(refused, spool=0xA1, status=429), result(peek, spool=0xA1)])
    await other.take([result(late, spool=0xA1)])
    expected = {"1xx": 1, "2xx": 6, "3xx": 1, "4xx": 1, "5xx": 3}
    assert shown(one, other) == (await counted(database, clock), 8) == (expected, 8)
    await one.take([late, *told])
    assert shown(one, other) == (await counted(database, clock), 8)
    clock.advance(60)
    assert await other.ledger.settle_pending() == await one.ledger.settle_pending() + 1
    assert shown(one, other) == (await counted(database, clock), 9) == ({**expected, "2xx": 7}, 9)


async def test_workers_that_hear_the_same_results_at_once_show_each_once(
    database: Database, clock: ManualClock
) -> None:
    made = [decision(number, clock()) for number in range(1, 41)]
    first = Worker(0xA1, database, clock)
    await first.take(made)
    workers = [Worker(number, database, clock) for number in range(4)]
    told = [result(each, spool=0xA1) for each in made]
    await asyncio.gather(*(worker.take(told[5 * number :]) for number, worker in enumerate(workers)))
    assert shown(first, *workers) == (await counted(database, clock), 40) == ({"2xx": 40}, 40)


async def test_what_was_undone_is_not_shown(database: Database, clock: ManualClock) -> None:
    worker = Worker(0xA1, database, clock)
    killed = KilledBeforeCommit(database, clock, observer=worker.metrics)
    made = decision(1, clock())
    taken = intake([made, result(made)])
    with pytest.raises(KilledError):
        await killed.apply(await killed.claim(taken.stream, "a"), taken)
    assert shown(worker) == ({}, 0)
    await worker.ledger.apply(await worker.ledger.claim(taken.stream, "b"), taken)
    assert shown(worker) == ({"2xx": 1}, 1)
