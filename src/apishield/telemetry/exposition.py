"""From numbers of processes to the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from apishield.telemetry.catalogue import DEFINITIONS, Combine, Definition, Kind
from apishield.telemetry.latency import cumulated
from apishield.telemetry.shared import Labels, Published, Value, plus

_FAMILIES: Final[dict[Kind, type[CounterMetricFamily] | type[GaugeMetricFamily]]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
}


class _Once(Collector):
    """A collector of what was made already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def expose(published: Sequence[Published]) -> bytes:
    """The numbers of a node: of each metric the sum, the highest, or one value a process, as the catalogue says."""
    registry = CollectorRegistry(auto_describe=False)
    families = [_family(definition, published) for definition in DEFINITIONS.values()]
    registry.register(_Once([family for family in families if family is not None]))
    return generate_latest(registry)


def _family(definition: Definition, published: Sequence[Published]) -> Metric | None:
    """One metric of the node; ``None`` where none of its processes has it."""
    found = [
        (process.process, process.numbers[definition.name])
        for process in published
        if definition.name in process.numbers
    ]
    if not found:
        return None
    combined: dict[Labels, Value] = {}
    for process, values in found:
        for labels, value in values:
            shown = (*labels, process) if definition.combine is Combine.EACH else labels
            present = combined.get(shown)
            combined[shown] = value if present is None else _combine(definition.combine, present, value)
    if definition.kind is Kind.HISTOGRAM:
        return _histogram(definition, combined)
    names = [*definition.labels, "process"] if definition.combine is Combine.EACH else list(definition.labels)
    family = _FAMILIES[definition.kind](definition.name, definition.help, labels=names)
    for labels, value in combined.items():
        if len(labels) == len(names) and not isinstance(value, list):  # else of another version
            family.add_metric(labels, value)
    return family


def _combine(how: Combine, one: Value, other: Value) -> Value:
    if how is Combine.MAX and not isinstance(one, list) and not isinstance(other, list):
        return max(one, other)
    return plus(one, other)


def _histogram(definition: Definition, combined: dict[Labels, Value]) -> Metric:
    family = HistogramMetricFamily(definition.name, definition.help, labels=list(definition.labels))
    for labels, value in combined.items():
        assert isinstance(value, list)
        *counts, total = value
        family.add_metric(labels, buckets=cumulated(counts), sum_value=total)
    return family
