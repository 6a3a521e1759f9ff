"""Figures of a part of the traffic: sums, costs by unit, quantiles of latency."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from apishield.analytics.histogram import sum_histograms, sum_moved
from apishield.analytics.reports import Latency, latency
from apishield.stores.sql.analytics.plan import Cell, Column, Group, Plan, Sums
from apishield.stores.sql.analytics.rollups import RollupReader
from apishield.stores.sql.analytics.sources import Groups

_BYTES_READ_AT_ONCE: Final = 40_000  # of histograms: more would hold up the event loop for milliseconds


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
    if plan.selection.status is not None:
        return {group: Figures(only_counts(found)) for group, found in await reader.sums(plan, by, groups)}
    found, histograms = await reader.figures(plan, by, groups)
    units: dict[Group, dict[str, int]] = defaultdict(dict)
    for group, unit, cost in await reader.units(plan, by, groups):
        units[group][unit] = cost
    latencies = await latencies_of(histograms)
    return {
        group: Figures(sums, units.get(group, {}), latencies.get(group, Latency())) for group, sums in found.items()
    }


def only_counts(sums: Sums) -> Sums:
    """Of sums that a class of status was asked for: how many there were, and nothing of the others."""
    return Sums(requests=sums.requests, allowed=sums.allowed)


async def latencies_of(found: Sequence[tuple[Cell, bytes]]) -> dict[Group, Latency]:
    """The latencies by group, of the histograms of cells. Many are read in a thread: checks are answered meanwhile."""
    if sum(len(histograms) for _, histograms in found) <= _BYTES_READ_AT_ONCE:
        return _latencies_of(found)
    return await asyncio.to_thread(_latencies_of, found)


def _latencies_of(found: Sequence[tuple[Cell, bytes]]) -> dict[Group, Latency]:
    if all(
        cell.out_of is None for cell, _ in found
    ):  # one by one, as each is summed by itself: less memory, and quicker
        return {cell.group: latency(sum_histograms([histograms])) for cell, histograms in found}
    sums = sum_moved((cell.group, cell.out_of, histograms) for cell, histograms in found)
    return {group: latency(histogram) for group, histogram in sums.items()}
