"""The page of the metrics, from the catalogue: ``python -m apishield.telemetry.reference``."""

from __future__ import annotations

import sys
from typing import Final

from apishield.telemetry.catalogue import SECTIONS, Combine, Definition, Kind
from apishield.telemetry.latency import LATENCY_BUCKETS

_HEAD: Final = f"""# Metrics

`GET /metrics` shows what a node counts, in the text format of Prometheus. A scrape of any process of a node shows the whole
node: the sums of its API processes and of the process that keeps the ledger. From other machines it needs the operator's token
(`Authorization: Bearer aso_…`). [How to watch a service with them](../how-to/watch-with-prometheus-and-grafana.md).

- Counters only grow, also when a process of the node dies: what it had published (each second) stays counted until all
  processes of the node have ended.
- No label is a key, a customer, an address or a tenant; ask the ledger for those (`GET /v1/analytics`).
- Histograms have the buckets {", ".join(f"{bound:g}" for bound in LATENCY_BUCKETS)} seconds.
- *Of a node* says what is shown of the values that its processes have: their sum, the highest, or each (label `process`).

This page is generated from `src/apishield/telemetry/catalogue.py` by `make docs`.
"""
_OF_A_NODE: Final = {Combine.SUM: "sum", Combine.MAX: "highest", Combine.EACH: "each"}


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_section(title, definitions) for title, definitions in SECTIONS.items())


def _section(title: str, definitions: tuple[Definition, ...]) -> str:
    rows = "".join(_row(definition) for definition in definitions)
    return f"\n## {title}\n\n| metric | type | of a node | what it is |\n|---|---|---|---|\n{rows}"


def _row(definition: Definition) -> str:
    labels = [*definition.labels, *(["process"] if definition.combine is Combine.EACH else [])]
    shown = f"{definition.name}{{{','.join(labels)}}}" if labels else definition.name
    of_a_node = "sum" if definition.kind is Kind.HISTOGRAM else _OF_A_NODE[definition.combine]
    return f"| `{shown}` | {definition.kind} | {of_a_node} | {definition.help} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
