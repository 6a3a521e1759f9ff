"""Figures of a part of the traffic: sums, costs by unit, quantiles of latency."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from apishield.analytics.histogram import Histogram, sum_histograms
from apishield.analytics.reports import Latency, latency
from apishield.stores.sql.analytics.plan import Column, Group, Plan, Sums
from apishield.stores.sql.analytics.rollups import Groups, RollupReader

_MERGED_AT_ONCE: Final = 500  # more would hold up the event loop for milliseconds


class Figures(msgspec.Struct, frozen=True):
    """What is known of a part of the traffic. ``units`` are costs in units other than requests."""

    sums: Sums
    units: Mapping[str, int] = {}
    latency: Latency = Latency()

    @classmethod
    def nothing(cls) -> Figures:
        """The figures of no traffic."""
        return cls(Sums())


async def figures_of(
    reader: RollupReader, plan: Plan, by: Sequence[Column] = (), groups: Groups | None = None
) -> dict[Group, Figures]:
    """The figures by ``by``; only of ``groups`` where they are given.

    Where the plan asks for a class of status, nothing but counts is known: rollups do not tell the others apart by it.
    """
    sums = await reader.sums(plan, by, groups)
    if plan.selection.status is not None:
        return {group: Figures(only_counts(found)) for group, found in sums}
    units: dict[Group, dict[str, int]] = defaultdict(dict)
    for group, unit, cost in await reader.units(plan, by, groups):
        units[group][unit] = cost
    latencies = await merged(await reader.latencies(plan, by, groups))
    return {group: Figures(found, units.get(group, {}), latency(latencies.get(group))) for group, found in sums}


def only_counts(sums: Sums) -> Sums:
    """Of sums that a class of status was asked for: how many there were, and nothing of the others."""
    return Sums(requests=sums.requests, allowed=sums.allowed)


async def merged(rows: Sequence[tuple[Group, bytes]]) -> dict[Group, Histogram]:
    """The histograms by group. Many are merged in a thread, so that checks are answered meanwhile."""
    if len(rows) <= _MERGED_AT_ONCE:
        return _merge(rows)
    return await asyncio.to_thread(_merge, rows)


def _merge(rows: Iterable[tuple[Group, bytes]]) -> dict[Group, Histogram]:
    blobs: dict[Group, list[bytes]] = defaultdict(list)
    for group, blob in rows:
        blobs[group].append(blob)
    return {group: sum_histograms(each) for group, each in blobs.items()}
