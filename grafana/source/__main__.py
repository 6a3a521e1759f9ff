"""Writes the dashboards: ``python -m grafana.source``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.source import keys_and_endpoints, ledger_pipeline, limits, overview

DASHBOARDS = Path(__file__).parents[1] / "dashboards"


def documents() -> Iterator[tuple[Path, str]]:
    """Each dashboard's file and what is in it."""
    for module in (overview, limits, keys_and_endpoints, ledger_pipeline):
        name = module.__name__.rpartition(".")[2].replace("_", "-")
        yield DASHBOARDS / f"{name}.json", JSONEncoder(sort_keys=True, indent=2).encode(module.build().build()) + "\n"


if __name__ == "__main__":
    for path, content in documents():
        path.write_text(content)
