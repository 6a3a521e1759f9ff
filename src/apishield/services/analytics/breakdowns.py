"""The busiest, slowest or most failing of a kind: endpoints, keys, customers, countries; and how much is left beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from apishield.services.analytics.figures import Figures, figures_of, latencies_of, only_counts
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
    top = await _top(reader, plan, by, order, limit)
    found = await figures_of(reader, plan, by, top) if top else {}
    groups = [(group, found[group]) for group in top if group in found]
    return Breakdown(covered, groups, total, rest(total, [figures.sums for _, figures in groups]))


async def _top(reader: RollupReader, plan: Plan, by: Sequence[Column], order: Order, limit: int) -> list[Group]:
    if order != "p95":
        return await reader.top(plan, by, order=order, limit=limit)
    busiest = await reader.top(plan, by, order="requests", limit=SLOWEST_AMONG)
    if not busiest:
        return []
    _, histograms = await reader.figures(plan, by, busiest)
    latencies = await latencies_of(histograms)
    p95 = {group: latency.p95 or 0 for group, latency in latencies.items()}
    return sorted(busiest, key=lambda group: -p95.get(group, -1))[:limit]


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
