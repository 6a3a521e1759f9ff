"""Which limits refuse, what limits in shadow would do, and how the store of the counters does."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from grafana.source.panels import (
    HALF,
    THIRD,
    board,
    chosen,
    highest,
    lines,
    number,
    or_zero,
    per_second,
    quantiles,
    total,
)

LIMITED = 'code=~"rate_limited|quota_exceeded|concurrency_exceeded"'


def build() -> Dashboard:
    """The page about limits."""
    refusals = f"rate(apishield_limit_refusals_total{chosen()}[$__rate_interval])"
    return (
        board(
            "apishield-limits",
            "APIShield: limits",
            "Which limits refuse, what shadow ones would do, how the store does.",
        )
        .with_panel(
            number(
                "Refused by limits", "A second.", "reqps", or_zero(per_second("apishield_checks_total", where=LIMITED))
            )
        )
        .with_panel(
            number(
                "Degraded decisions",
                "Made without the store, or with an old snapshot, a second.",
                "reqps",
                per_second("apishield_degraded_decisions_total"),
                bad_from=1,
            )
        )
        .with_panel(
            number("Breaker", "Nodes whose breaker is open.", "none", total("apishield_store_degraded"), bad_from=1)
        )
        .with_panel(
            number(
                "Charges lost",
                "Local charges of the last hour that could not be brought back to Redis.",
                "none",
                f"sum (increase(apishield_store_charges_lost_total{chosen()}[1h]))",
                bad_from=1,
            )
        )
        .with_panel(
            lines(
                "Refusals by limit",
                "The ten limits (by name) that refuse most. A node shows the first 200 names, the rest as (other).",
                "reqps",
                (f"topk(10, sum by (limit) ({refusals}))", "{{limit}}"),
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Refusals by algorithm",
                "Which kind of limit refuses.",
                "reqps",
                (f"sum by (strategy) ({refusals})", "{{strategy}}"),
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Limits in shadow",
                "What limits that are not enforced yet say of checks that were let through.",
                "reqps",
                (per_second("apishield_shadow_would_refuse_total"), "would refuse"),
                (per_second("apishield_shadow_admitted_total"), "agree"),
                span=HALF,
            )
        )
        .with_panel(
            lines(
                "Refusals of all kinds",
                "By code, without what was let through.",
                "reqps",
                (per_second("apishield_checks_total", "code", where='code!="ok"'), "{{code}}"),
                stacked=True,
            )
        )
        .with_row(Row("The counters' store"))
        .with_panel(
            lines("Trips to the store", "How long one takes.", "s", *quantiles("apishield_store_seconds"), span=THIRD)
        )
        .with_panel(
            lines(
                "Failures",
                "Trips that failed or took longer than APISHIELD_REDIS_TIMEOUT_MS, and how often Redis was given up.",
                "none",
                (per_second("apishield_store_failures_total"), "failures a second"),
                (f"sum (increase(apishield_store_opened_total{chosen()}[$__rate_interval]))", "given up"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Decided by the nodes alone",
                "Checks decided without Redis, and charges brought back to it afterwards.",
                "reqps",
                (per_second("apishield_store_local_decisions_total"), "decided alone"),
                (per_second("apishield_store_charges_returned_total"), "brought back"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Counters in memory",
                "Without Redis each node keeps its counters itself, at most a million. With Redis: nothing to show.",
                "none",
                (highest("apishield_counters", "instance"), "{{instance}}"),
            )
        )
    )
