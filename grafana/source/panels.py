"""Panels in the manner of these dashboards: what a person needs to say of one, and nothing else."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, text, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.text import TextMode

HERE: Final = '{instance=~"$instance"}'
"""What every selector carries: the nodes that were chosen above."""
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="$datasource")
HALF: Final = 12
THIRD: Final = 8
QUARTER: Final = 6
_HEIGHT: Final = 8
_STAT_HEIGHT: Final = 4

Query = tuple[str, str]
"""An expression, and the legend of its lines (``{{code}}`` is the label's value)."""


def per_second(metric: str, *labels: str, where: str = "") -> str:
    """The rate of a counter over the nodes that were chosen, by ``labels``."""
    return f"{_sum(labels)} (rate({metric}{chosen(where)}[$__rate_interval]))"


def highest(metric: str, *labels: str, where: str = "") -> str:
    """The highest value of a gauge over the nodes that were chosen."""
    return f"{_sum(labels, 'max')} ({metric}{chosen(where)})"


def total(metric: str, *labels: str, where: str = "") -> str:
    """The sum of a gauge over the nodes that were chosen."""
    return f"{_sum(labels)} ({metric}{chosen(where)})"


def quantile(share: float, metric: str) -> str:
    """A quantile of a histogram, in seconds."""
    buckets = f"rate({metric}_bucket{HERE}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by (le) ({buckets}))"


def quantiles(metric: str) -> list[Query]:
    """The median and what few exceed."""
    return [(quantile(share, metric), name) for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))]


def or_zero(expression: str) -> str:
    """Nothing counted yet is 0, not "no data"."""
    return f"({expression}) or vector(0)"


def chosen(where: str = "") -> str:
    """The selector: the nodes that were chosen, and ``where``."""
    return '{instance=~"$instance"' + (f", {where}" if where else "") + "}"


def _sum(labels: tuple[str, ...], how: str = "sum") -> str:
    return f"{how} by ({', '.join(labels)})" if labels else how


def lines(
    title: str, description: str, unit: str, *queries: Query, span: int = HALF, stacked: bool = False
) -> timeseries.Panel:
    """Lines over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(_HEIGHT)
        .min(0)
        .fill_opacity(30 if stacked else 8)
        .line_width(1)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(True).placement(common_models.LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    for number, query in enumerate(queries):
        panel = panel.with_target(_target(number, query))
    return panel


def number(
    title: str, description: str, unit: str, expression: str, *, bad_from: float | None = None, span: int = QUARTER
) -> stat.Panel:
    """One present number; red from ``bad_from`` on."""
    steps = [Threshold(value=None, color="green")]
    if bad_from is not None:
        steps.append(Threshold(value=bad_from, color="red"))
    thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(_STAT_HEIGHT)
        .thresholds(thresholds)
        .graph_mode(common_models.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(0, (expression, title)))
    )


def note(title: str, content: str, *, span: int = 24, height: int = 4) -> text.Panel:
    """Words, in Markdown."""
    return text.Panel().title(title).mode(TextMode.MARKDOWN).content(content).span(span).height(height)


def board(uid: str, title: str, description: str) -> dashboard.Dashboard:
    """A dashboard that asks for the source and the nodes."""
    nodes = (
        dashboard.QueryVariable("instance")
        .label("Node")
        .query("label_values(apishield_build_info, instance)")
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["apishield"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(nodes)
        .link(
            dashboard.DashboardLink("APIShield")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["apishield"])
            .as_dropdown(True)
            .keep_time(True)
        )
    )


def _target(number: int, query: Query) -> prometheus.Dataquery:
    expression, legend = query
    return prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number)).range()
