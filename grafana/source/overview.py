"""Is it well, how much is asked, what is answered, how fast?"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from grafana.source.panels import THIRD, board, chosen, highest, lines, number, or_zero, per_second, quantiles, total

REFUSED = 'code!="ok"'


def build() -> Dashboard:
    """The first page."""
    checks, results = "apishield_checks_total", "apishield_results_total"
    refused_share = f"({or_zero(per_second(checks, where=REFUSED))}) / {per_second(checks)}"
    failed = 'status="5xx"'
    failed_share = f"({or_zero(per_second(results, where=failed))}) / {per_second(results)}"
    return (
        board("apishield-overview", "APIShield: overview", "Is it well, how much is asked, what is answered, how fast?")
        .with_panel(number("Checks", "Decided a second.", "reqps", per_second(checks)))
        .with_panel(
            number("Refused", "Share of the checks that were refused.", "percentunit", refused_share, bad_from=0.5)
        )
        .with_panel(
            number(
                "Without Redis",
                "Nodes that decide by themselves because the counters' store is gone.",
                "none",
                total("apishield_store_degraded"),
                bad_from=1,
            )
        )
        .with_panel(
            number(
                "Ledger behind",
                "Age that no event exceeds which is not in the ledger yet.",
                "s",
                highest("apishield_spool_undrained_age_seconds"),
                bad_from=60,
            )
        )
        .with_panel(
            lines(
                "Checks by outcome",
                "By code of the decision; `ok` was let through. Each code is explained at docs/errors.",
                "reqps",
                (per_second(checks, "code"), "{{code}}"),
                stacked=True,
            )
        )
        .with_panel(
            lines("Decision", "From a check's arrival to its decision.", "s", *quantiles("apishield_decision_seconds"))
        )
        .with_row(Row("The API behind"))
        .with_panel(
            lines(
                "Answers by status",
                "What protected APIs answered, as their middleware or gateway reports.",
                "reqps",
                (per_second(results, "status"), "{{status}}"),
                span=THIRD,
                stacked=True,
            )
        )
        .with_panel(
            lines("Latency", "Of protected APIs, as reported.", "s", *quantiles("apishield_result_seconds"), span=THIRD)
        )
        .with_panel(
            lines(
                "Errors", "Share of 5xx among the reported answers.", "percentunit", (failed_share, "5xx"), span=THIRD
            )
        )
        .with_row(Row("The service itself"))
        .with_panel(
            lines(
                "Control plane",
                "Requests of the console, the SDKs' management calls and scripts.",
                "reqps",
                (per_second("apishield_http_requests_total", "status"), "{{status}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "CPU",
                "Of each process; 1 is a whole core.",
                "none",
                (_each("rate(process_cpu_seconds_total%s[$__rate_interval])"), "{{instance}} {{process}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Memory",
                "Resident, of each process.",
                "bytes",
                (_each("process_resident_memory_bytes%s"), "{{instance}} {{process}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Nodes",
                "Processes with the data plane that say that they live, as each node knows.",
                "none",
                (highest("apishield_live_nodes", "instance"), "{{instance}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Age of the snapshot",
                "How long ago each node last read keys, policies and blocks. Over 5 s it is not ready.",
                "s",
                (highest("apishield_snapshot_age_seconds", "instance"), "{{instance}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Failing loops",
                "Background loops of a node whose last turn failed; the log says why.",
                "none",
                (highest("apishield_loop_failing", "instance", "loop"), "{{instance}} {{loop}}"),
                span=THIRD,
            )
        )
    )


def _each(expression: str) -> str:
    return expression % chosen()
