"""Compares the ledger with what clients noted: every decision, and every sum of every grouping set and length of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from sqlalchemy import text

from apishield.core.events import PEEK, TEST
from apishield.errors import PROBLEMS
from apishield.stores.sql.database import Database
from apishield.stores.sql.ledger.archive import DecisionArchive
from apishield.stores.sql.ledger.stored import StoredDecision
from tests.faults.ledger.notes import Notes, Question, Units

_EVER_US: Final = 2**53
_STEPS: Final = ("minute", "hour", "day")
_GROUPS: Final = {
    "tenant": (),
    "key": ("key_id",),
    "endpoint": ("endpoint", "method"),
    "country": ("country",),
    "full": ("key_id", "endpoint", "method", "country"),
}
"""The grouping sets, and what each tells apart besides environment and code."""
_STRANGERS: Final = frozenset({"key_missing", "key_malformed", "key_unknown"})
_MEASURES: Final = ("requests", "cost", "bytes", "results", "status_1xx", "status_2xx", "status_3xx", "status_4xx",
                    "status_5xx", "latency_us")  # fmt: skip

Sums = Counter[tuple[str, ...]]
"""Amounts by environment, code, the dimensions of the grouping set, and measure, or ``unit:`` and the unit."""


async def audit(database: Database, tenant_id: str, notes: Notes) -> int:
    """Raises ``AssertionError`` where the ledger says anything but what was answered; returns how many decisions it holds."""
    stored = await _all_decisions(database, tenant_id)
    pairs = list(_pairs(stored, notes))
    for question, decision in pairs:
        _compare(question, decision)
    counted = [(question, decision) for question, decision in pairs if not decision.event.flags & PEEK]
    for dims in _GROUPS:
        in_days = await _sums(database, tenant_id, dims, "day")
        for step in _STEPS[:-1]:
            _same(await _sums(database, tenant_id, dims, step), in_days, f"sums of {dims}: {step}s and days")
        _same(in_days, _expected(counted, dims), f"sums of {dims}: rollups and decisions")
        _between(in_days, notes, dims)
    return len(stored)


async def _all_decisions(database: Database, tenant_id: str) -> list[StoredDecision]:
    archive = DecisionArchive(database)
    return [stored async for some in archive.scan(tenant_id, 0, _EVER_US) for stored in some]


def _pairs(stored: Iterable[StoredDecision], notes: Notes) -> Iterable[tuple[Question, StoredDecision]]:
    """Each decision with its question. Every answered question has one, no question has two, no decision has none."""
    asked = {question.path: question for question in notes.questions}
    assert len(asked) == len(notes.questions)
    seen: set[str] = set()
    for decision in stored:
        path = decision.event.path or ""
        assert path in asked, f"nobody asked for {decision.event}"
        assert path not in seen, f"twice in the ledger: {decision.event}"
        seen.add(path)
        yield asked[path], decision
    missing = [question for question in notes.answered() if question.path not in seen]
    assert not missing, f"{len(missing)} answered, and not in the ledger: {missing[:3]}"


def _compare(question: Question, decision: StoredDecision) -> None:
    """A decision is what was answered, and its result is there where an answer said so, and only where one was told."""
    event, told = decision.event, question.told
    assert (event.key_id or "") == question.key_id, (question, event)
    assert bool(event.flags & PEEK) is question.is_peek, (question, event)
    assert bool(event.flags & TEST) is (question.environment == "test"), (question, event)
    if question.is_answered:
        assert event.code == question.code, (question, event)
    if decision.result is not None:
        assert told is not None, (question, decision.result)
        assert (decision.result.status, decision.result.bytes) == (told.status, told.bytes), (question, decision.result)
    elif told is not None and told.sure:
        raise AssertionError(f"a result that was taken is not in the ledger: {question}, {event}")
    if question.is_answered and event.code == "ok" and not question.is_peek:
        assert _final(question, decision) in question.finals, (question, decision)


def _final(question: Question, decision: StoredDecision) -> Units:
    """What the decision costs in the end, as the ledger has it."""
    settlement = decision.settlement
    if settlement is None:
        return question.units
    return dict.fromkeys(question.units, 0) if settlement.released else {**question.units, **settlement.units}


# --- sums ---------------------------------------------------------------------------------------------------------------


def _expected(pairs: Iterable[tuple[Question, StoredDecision]], dims: str) -> Sums:
    """The sums as the single decisions make them, counted one by one."""
    sums: Sums = Counter()
    for question, decision in pairs:
        code = decision.event.code
        for measure, amount in _amounts(question, decision).items():
            sums[(*_group(question, dims, code), measure)] += amount
    return +sums


def _amounts(question: Question, decision: StoredDecision) -> Counter[str]:
    amounts = Counter(requests=1)
    result, admitted = decision.result, decision.event.code == "ok"
    if admitted:
        for unit, cost in _final(question, decision).items():
            amounts["cost" if unit == "requests" else f"unit:{unit}"] += cost
    else:
        amounts[f"status_{PROBLEMS[decision.event.code].status // 100}xx"] += 1
    if result is not None:
        amounts.update(results=1, bytes=result.bytes or 0, latency_us=result.latency_us)
        if admitted:
            amounts[f"status_{result.status // 100}xx"] += 1
    return amounts


def _group(question: Question, dims: str, code: str) -> tuple[str, ...]:
    return _folded((question.environment, code, *(getattr(question, name) for name in _GROUPS[dims])), dims)


def _folded(group: tuple[str, ...], dims: str) -> tuple[str, ...]:
    """A stranger who is refused claims no endpoint: whether it has a name then depends on who came before, across kills."""
    if group[1] not in _STRANGERS or "endpoint" not in _GROUPS[dims]:
        return group
    at = 2 + _GROUPS[dims].index("endpoint")
    return (*group[:at], "", *group[at + 1 :])


def _between(sums: Sums, notes: Notes, dims: str) -> None:
    """answered ≤ ledger ≤ answered + in flight: of each group, from the clients' notes alone."""
    least: Sums = Counter()
    most: Sums = Counter()
    codes = {place[1] for place in sums} | {question.code for question in notes.answered()}
    for question in notes.questions:
        if question.is_peek:
            continue
        if not question.is_answered:
            for code in codes:
                most[(*_group(question, dims, code), "requests")] += 1
                most[(*_group(question, dims, code), "results")] += question.told is not None
            for unit, amount in question.units.items():
                most[(*_group(question, dims, "ok"), _measure(unit))] += amount
            continue
        group = _group(question, dims, question.code)
        least[(*group, "requests")] += 1
        most[(*group, "requests")] += 1
        least[(*group, "results")] += question.told is not None and question.told.sure
        most[(*group, "results")] += question.told is not None
        for unit in {unit for final in question.finals for unit in final}:
            amounts = [final.get(unit, 0) for final in question.finals]
            least[(*group, _measure(unit))] += min(amounts)
            most[(*group, _measure(unit))] += max(amounts)
    for place in {*sums, *least, *most}:
        if place[-1] in {"requests", "results", "cost"} or place[-1].startswith("unit:"):
            amount = sums[place]
            assert least[place] <= amount <= most[place], (place, least[place], amount, most[place])


def _measure(unit: str) -> str:
    return "cost" if unit == "requests" else f"unit:{unit}"


async def _sums(database: Database, tenant_id: str, dims: str, step: str) -> Sums:
    """All that the tenant's rollups of one grouping set and step say."""
    columns = ", ".join(["s.environment", "n.code", *(f"n.{name}" for name in _GROUPS[dims])])
    joined = (
        "JOIN series n ON n.id = r.series_id AND n.set_id = r.set_id JOIN series_sets s ON s.id = r.set_id "
        "WHERE s.tenant_id = :tenant AND s.dims = :dims"
    )
    measures = ", ".join(f"sum(r.{name})" for name in _MEASURES)
    of_all = f"SELECT {columns}, {measures} FROM rollup_{step} r {joined} GROUP BY {columns}"
    of_units = (
        f"SELECT {columns}, r.unit, sum(r.cost) FROM rollup_units r {joined} AND r.step = :step "
        f"GROUP BY {columns}, r.unit"
    )
    sums: Sums = Counter()
    async with database.read() as work:
        given = {"tenant": tenant_id, "dims": dims}
        for row in await work.connection.execute(text(of_all), given):
            group = tuple(row)[: -len(_MEASURES)]
            for measure, amount in zip(_MEASURES, tuple(row)[len(group) :], strict=True):
                sums[(*_folded(group, dims), measure)] += int(amount)
        for row in await work.connection.execute(text(of_units), {**given, "step": step}):
            *place, unit, cost = tuple(row)
            sums[(*_folded(tuple(place), dims), f"unit:{unit}")] += int(cost)
    return +sums


def _same(found: Sums, wanted: Sums, what: str) -> None:
    wrong = {place: (found[place], wanted[place]) for place in {*found, *wanted} if found[place] != wanted[place]}
    assert not wrong, f"{what} differ: {dict(sorted(wrong.items())[:8])}"
