"""The busiest, slowest or most failing of a kind: endpoints, keys, customers, countries; and how much is left beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from apishield.services.analytics.figures import Figures, figures_of, only_counts
from apishield.services.analytics.planner import Covered, planned
from apishield.services.analytics.questions import Question
from apishield.stores.sql.analytics.plan import Column, Group, Plan, Sums
from apishield.stores.sql.analytics.rollups import RollupReader

Kind = Literal["endpoint", "key", "customer", "country"]
Order = Literal["requests", "error_rate", "p95"]

KINDS: Final[Mapping[Kind, tuple[Column, ...]]] = {
    "endpoint": ("endpoint", "method"),
    "key": ("key_id",),
    "customer": ("customer_id",),
    "country": ("country",),
}
SLOWEST_AMONG: Final = 200
"""By p95 the busiest so many are ordered: latencies can't be ordered without reading them."""


class Breakdown(msgspec.Struct, frozen=True):
    """The groups in order, all of them together, and the rest; ``other`` is ``None`` where there is no rest."""

    covered: Covered
    groups: Sequence[tuple[Group, Figures]]
    total: Sums
    other: Sums | None


async def break_down(reader: RollupReader, question: Question, kind: Kind, *, order: Order, limit: int) -> Breakdown:
    """The first ``limit`` of ``kind`` by ``order``."""
    by = KINDS[kind]
    plan, covered = planned(question, by)
    whole, _ = planned(question)
    total = sum_of(sums for _, sums in await reader.sums(whole))
    total = total if question.selection.status is None else only_counts(total)
    if order == "p95":
        groups = await _slowest(reader, plan, by, limit)
    else:
        top = await reader.top(plan, by, order=order, limit=limit)
        groups = await _in_order(reader, plan, by, top)
    return Breakdown(covered, groups, total, rest(total, [figures.sums for _, figures in groups]))


async def _slowest(reader: RollupReader, plan: Plan, by: Sequence[Column], limit: int) -> list[tuple[Group, Figures]]:
    """The slowest, of any status: latencies are not told apart by it."""
    whole = replace(plan, selection=replace(plan.selection, status=None))
    busiest = await reader.top(plan, by, order="requests", limit=SLOWEST_AMONG)
    known = await _in_order(reader, whole, by, busiest)
    slowest = sorted(known, key=_slowness, reverse=True)[:limit]
    return slowest if whole == plan else await _in_order(reader, plan, by, [group for group, _ in slowest])


def _slowness(known: tuple[Group, Figures]) -> float:
    p95 = known[1].latency.p95
    return -1 if p95 is None else p95


async def _in_order(
    reader: RollupReader, plan: Plan, by: Sequence[Column], groups: Sequence[Group]
) -> list[tuple[Group, Figures]]:
    """The figures of ``groups``."""
    found = await figures_of(reader, plan, by, groups) if groups else {}
    return [(group, found[group]) for group in groups if group in found]


def sum_of(many: Iterable[Sums]) -> Sums:
    """All of them together."""
    total = Sums()
    for sums in many:
        total.add(sums)
    return total


def rest(total: Sums, shown: Sequence[Sums]) -> Sums | None:
    """What of ``total`` is not in ``shown``."""
    left = Sums().add(total)
    for sums in shown:
        left.add(sums, -1)
    return left if left.requests > 0 else None
