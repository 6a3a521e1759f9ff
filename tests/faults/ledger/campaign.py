"""One seed against one target: callers ask, the schedule strikes, all is let to drain, and the books are compared."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx2
from confluent_kafka import KafkaException

from apishield.errors import ProblemError
from apishield.stores.sql.database import Database
from tests.faults.ledger.books import audit
from tests.faults.ledger.callers import CALLERS, Callers
from tests.faults.ledger.notes import Notes
from tests.faults.ledger.schedule import Schedule
from tests.faults.ledger.targets import Target
from tests.faults.ledger.tenants import Tenant, new_tenant

PATIENCE_SECONDS = 120.0  # before something that is waited for is called lost


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed in which nothing was wrong."""

    decisions: int
    answers: int
    in_flight: int
    seconds: float


async def run_seed(seed: int, target: Target) -> Outcome:
    """Raises ``AssertionError`` where the ledger is not what was answered."""
    began = time.monotonic()
    schedule = Schedule.of(seed, target.faults)
    tenant = await asyncio.to_thread(new_tenant, target.urls()[0], f"seed {seed}")
    callers = Callers(seed, tenant, target.urls)
    database = target.database()
    try:
        await _fight(schedule, target, callers)
        await _drain(target, database, tenant)
        decisions = await audit(database, tenant.id, callers.notes)
        await _found_by_their_ids(target, tenant, callers.notes)
    except BaseException as error:
        error.add_note(f"seed {seed}: {schedule}; {callers.notes}\n{target.logs()[-4000:]}")
        raise
    finally:
        await database.close()
    notes = callers.notes
    # Only what was on its way when somebody was killed may be in doubt: at most one request of each caller.
    assert notes.broken <= CALLERS * (len(schedule.blows) + 1) * 2, notes.broken
    return Outcome(decisions, notes.answers, notes.in_flight(), time.monotonic() - began)


async def _fight(schedule: Schedule, target: Target, callers: Callers) -> None:
    asking = asyncio.create_task(callers.run())
    try:
        for blow in schedule.blows:
            await _answers(callers, blow.after, asking)
            await asyncio.to_thread(target.inflict, blow.fault, blow.victim)
        await _answers(callers, schedule.last, asking)
    finally:
        callers.stop()
        await asking


async def _answers(callers: Callers, more: int, asking: asyncio.Task[None]) -> None:
    wanted = callers.notes.answers + more
    async with asyncio.timeout(PATIENCE_SECONDS):
        while callers.notes.answers < wanted and not asking.done():
            await asyncio.sleep(0.005)


async def _drain(target: Target, database: Database, tenant: Tenant) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await _is_drained(target, database, tenant):
            await asyncio.sleep(0.05)


async def _is_drained(target: Target, database: Database, tenant: Tenant) -> bool:
    try:
        return await target.is_drained(database, tenant.id)
    except (ProblemError, KafkaException):  # connections from before a database or a broker was killed
        return False


async def _found_by_their_ids(target: Target, tenant: Tenant, notes: Notes) -> None:
    """A few of the decisions, as the service itself shows them."""
    headers = {"Authorization": f"Bearer {tenant.token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as client:
        for question in list(notes.answered())[-5:]:
            answer = await client.get(f"{target.urls()[-1]}/v1/decisions/{question.decision_id}")
            assert answer.status_code == 200, (question, answer.text)
            assert answer.json()["code"] == question.code, (question, answer.text)
