"""What the dashboards and alert rules ask Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

GRAFANA = Path(__file__).parents[2] / "grafana"
VARIABLES = {"$__rate_interval": "10s", "$instance": ".*"}
"""What Grafana puts in, as these tests do."""


@dataclass(frozen=True, slots=True)
class Target:
    """One expression of one panel. ``first`` is whether it is the panel's first."""

    board: str
    uid: str
    title: str
    description: str
    expression: str
    x: int
    y: int
    first: bool

    def __str__(self) -> str:
        return f"{self.board} / {self.title}"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert rule."""

    name: str
    expression: str
    runbook_url: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric that an expression names, with the labels it asks for. ``text`` is the selector itself."""

    name: str
    labels: frozenset[str]
    text: str


def targets() -> Iterator[Target]:
    """Every expression of every panel, with the variables put in."""
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        document = json.loads(path.read_text())
        for panel in document["panels"]:
            for number, target in enumerate(panel.get("targets", ())):
                expression = target["expr"]
                for variable, value in VARIABLES.items():
                    expression = expression.replace(variable, value)
                place = panel["gridPos"]
                yield Target(
                    path.stem,
                    document["uid"],
                    panel["title"],
                    panel.get("description", ""),
                    expression,
                    place.get("x", 0),
                    place.get("y", 0),
                    number == 0,
                )


def alerts() -> Iterator[Alert]:
    """Every alert rule."""
    document = yaml.safe_load((GRAFANA / "alerts" / "apishield.rules.yml").read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            yield Alert(rule["alert"], rule["expr"], rule["annotations"]["runbook_url"])


def selectors(expression: Any) -> list[Selector]:
    """The selectors in an expression that was parsed."""
    if isinstance(expression, promql_parser.VectorSelector):
        labels = frozenset(matcher.name for matcher in expression.matchers.matchers)
        return [Selector(expression.name or "", labels, expression.prettify())]
    if isinstance(expression, promql_parser.BinaryExpr):
        return selectors(expression.lhs) + selectors(expression.rhs)
    if isinstance(expression, promql_parser.Call):
        return [found for argument in expression.args for found in selectors(argument)]
    inner = (
        getattr(expression, "expr", None)
        or getattr(expression, "vector_selector", None)
        or getattr(expression, "vs", None)
    )
    return [] if inner is None else selectors(inner)
