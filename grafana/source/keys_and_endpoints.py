"""Keys and the API behind them, as far as numbers without names go.

Prometheus gets no key, customer or endpoint as a label: there are as many as tenants make. By key, customer, endpoint, country
and address ask the ledger: ``GET /v1/analytics``.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.source.panels import THIRD, board, highest, lines, note, number, or_zero, per_second, quantiles

KEY_CODES = 'code=~"key_.*"'
ADMITTED = 'code="ok"'
RIGHTS_CODES = 'code=~"scope_missing|ip_not_allowed"'

WHERE_NAMES_ARE = """Numbers **by** key, customer, endpoint, country or address are in the ledger, not here: a label for each
would be as many series as tenants care to make. Ask `GET /v1/analytics/keys`, `/endpoints`, `/customers`, `/countries`, `/ips`
with `?from=now-24h`; `GET /v1/analytics/timeseries?group_by=endpoint` draws them over time."""


def build() -> Dashboard:
    """The page about keys and endpoints."""
    checks, results = "apishield_checks_total", "apishield_results_total"
    return (
        board("apishield-keys-and-endpoints", "APIShield: keys and endpoints", "Keys, and the API behind them.")
        .with_panel(note("By name", WHERE_NAMES_ARE))
        .with_panel(number("Keys", "API keys that the nodes know.", "none", highest("apishield_snapshot_keys")))
        .with_panel(
            number(
                "Bad credentials",
                "Checks a second with a key that is missing, unknown, malformed, revoked or expired.",
                "reqps",
                or_zero(per_second(checks, where=KEY_CODES)),
            )
        )
        .with_panel(
            number(
                "Missing rights",
                "Checks a second with a key that lacks the scope, or comes from an address that it may not use.",
                "reqps",
                or_zero(per_second(checks, where=RIGHTS_CODES)),
            )
        )
        .with_panel(number("Answers", "Results reported a second.", "reqps", per_second(results)))
        .with_panel(
            lines(
                "Refused keys",
                "By what was wrong with the key.",
                "reqps",
                (per_second(checks, "code", where='code=~"key_.*|scope_missing|ip_not_allowed"'), "{{code}}"),
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Blocked",
                "Callers that are blocked, by hand or by a rule.",
                "reqps",
                (or_zero(per_second(checks, where='code=~"blocked|abuse_blocked"')), "blocked"),
            )
        )
        .with_panel(
            lines(
                "Answers by status",
                "Of the protected APIs, as reported.",
                "reqps",
                (per_second(results, "status"), "{{status}}"),
                span=THIRD,
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Latency",
                "Of the protected APIs, as reported.",
                "s",
                *quantiles("apishield_result_seconds"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Reported",
                "Share of the admitted checks whose result came back. Without results there are no error rates and latencies.",
                "percentunit",
                (f"{per_second(results)} / {per_second(checks, where=ADMITTED)}", "reported"),
                span=THIRD,
            )
        )
    )
