"""The dashboards are what their code makes, and every alert has a runbook, a rule that Prometheus takes, and two cases."""

from __future__ import annotations

import re
from pathlib import Path

import promql_parser
import pytest

from apishield.telemetry.catalogue import DEFINITIONS, Kind
from tests.support.grafana import alerts, selectors, targets
from tests.support.prometheus import promtool

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "grafana" / "alerts"
BUILT_IN = {"up"}


def test_the_committed_dashboards_are_what_the_code_makes() -> None:
    from grafana.source.__main__ import documents

    for path, content in documents():
        assert path.read_text() == content, f"{path.name} is old: run python -m grafana.source"


def test_each_dashboard_has_an_id_of_its_own_and_no_panel_lies_on_another() -> None:
    boards = {target.board: target.uid for target in targets()}
    assert len(set(boards.values())) == len(boards) == 4
    places = [(target.board, target.x, target.y) for target in targets() if target.first]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    "expression", [target.expression for target in targets()] + [alert.expression for alert in alerts()]
)
def test_each_expression_asks_for_metrics_and_labels_that_there_are(expression: str) -> None:
    parsed = promql_parser.parse(expression)
    asked = selectors(parsed)
    assert asked
    for selector in asked:
        name = re.sub(r"_(bucket|count|sum)$", "", selector.name)
        definition = DEFINITIONS.get(name) or DEFINITIONS.get(selector.name)
        assert definition is not None or selector.name in BUILT_IN, selector.name
        labels = {"instance", "job", "process", *(definition.labels if definition else ())}
        assert selector.labels <= labels, (selector.name, selector.labels - labels)
        if definition is not None and definition.kind is Kind.HISTOGRAM:
            assert selector.name == f"{definition.name}_bucket"


def test_each_panel_says_what_it_shows() -> None:
    for target in targets():
        assert target.title, target
        assert target.description, target.title


def test_each_alert_names_a_runbook_that_there_is_and_the_index_knows() -> None:
    index = (ROOT / "docs/runbooks/index.md").read_text()
    pages = {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")} - {"index"}
    named = {alert.runbook_url.rpartition("/docs/runbooks/")[2].removesuffix(".md"): alert.name for alert in alerts()}
    assert set(named) == pages
    for page, name in named.items():
        assert (ROOT / f"docs/runbooks/{page}.md").read_text().startswith(f"# {name}\n")
        assert f"[{name}]({page}.md)" in index


def test_prometheus_takes_the_rules_and_the_example_of_its_configuration() -> None:
    promtool("check", "rules", "--lint-fatal", str(ALERTS / "apishield.rules.yml"))
    promtool("check", "config", "--syntax-only", str(ROOT / "grafana/prometheus.yml"))


def test_each_alert_fires_when_it_should_and_is_silent_when_not() -> None:
    cases = (ALERTS / "apishield.test.yml").read_text()
    for alert in alerts():
        assert f"name: {alert.name} firing" in cases
        assert f"name: {alert.name} silent" in cases
    promtool("test", "rules", str(ALERTS / "apishield.test.yml"))
