"""From a decision to a figure: spool, Kafka where there is one, ledger."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from grafana.source.panels import THIRD, board, chosen, highest, lines, number, or_zero, per_second, total


def build() -> Dashboard:
    """The page about the ledger."""
    newest = f"time() - max (apishield_ledger_newest_decision_timestamp_seconds{chosen()})"
    full = f"max (apishield_spool_bytes{chosen()} / apishield_spool_limit_bytes{chosen()})"
    return (
        board("apishield-ledger-pipeline", "APIShield: ledger pipeline", "From a decision to a figure.")
        .with_panel(
            number(
                "Behind",
                "Age that no event exceeds which is not in the ledger (with Kafka: not published) yet.",
                "s",
                highest("apishield_spool_undrained_age_seconds"),
                bad_from=60,
            )
        )
        .with_panel(
            number("Newest decision", "Age of the newest decision in the ledger; grows where nobody asks.", "s", newest)
        )
        .with_panel(number("Spool", "How full the fullest spool is.", "percentunit", full, bad_from=0.5))
        .with_panel(
            number(
                "Drift",
                "Units that quotas count less than the ledger; healed within a minute.",
                "none",
                or_zero(total("apishield_ledger_drift_units", where='kind="missing"')),
                bad_from=1,
            )
        )
        .with_row(Row("Spool"))
        .with_panel(
            lines(
                "Events",
                "Written to spools, and taken into the ledger. The lines part where the ledger falls behind.",
                "reqps",
                (per_second("apishield_spool_events_total"), "written"),
                (per_second("apishield_ledger_events_total"), "taken"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Waiting",
                "Bytes in the spools of each node. What was taken is deleted segment by segment, so some are always there.",
                "bytes",
                (total("apishield_spool_bytes", "instance"), "{{instance}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Age of the oldest",
                "Of the events that wait in each node's spool.",
                "s",
                (highest("apishield_spool_undrained_age_seconds", "instance"), "{{instance}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Only counted",
                "Decisions of which the count was kept and not the detail: for want of room, or in a flood of refusals.",
                "reqps",
                (per_second("apishield_spool_folded_events_total"), "for want of room"),
                (per_second("apishield_spool_flood_events_total"), "in a flood"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Trouble with files",
                "Writes that failed, frames that were damaged and set aside, results that were lost.",
                "none",
                (f"sum (increase(apishield_spool_failed_writes_total{chosen()}[$__rate_interval]))", "failed writes"),
                (f"sum (increase(apishield_spool_damaged_frames_total{chosen()}[$__rate_interval]))", "damaged"),
                (
                    f"sum (increase(apishield_ledger_unreadable_frames_total{chosen()}[$__rate_interval]))",
                    "not understood",
                ),
                (f"sum (increase(apishield_spool_lost_results_total{chosen()}[$__rate_interval]))", "lost results"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Bytes written",
                "To the spools.",
                "Bps",
                (per_second("apishield_spool_written_bytes_total", "instance"), "{{instance}}"),
                span=THIRD,
            )
        )
        .with_row(Row("Ledger"))
        .with_panel(
            lines(
                "Set aside",
                "What came twice and was dropped, results that came too late, intakes of a worker that was taken over.",
                "reqps",
                (per_second("apishield_ledger_duplicates_total"), "duplicates"),
                (per_second("apishield_ledger_late_results_total"), "too late"),
                (per_second("apishield_ledger_fenced_total"), "stale workers"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Put aside",
                "Results that came before their decision and wait for it, and those that could not wait.",
                "reqps",
                (per_second("apishield_ledger_put_aside_total"), "put aside"),
                (per_second("apishield_ledger_put_aside_lost_total"), "lost"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Tried again",
                "Rounds that failed (the database or Kafka is away), and transactions that met another worker's.",
                "none",
                (f"sum (increase(apishield_ledger_failures_total{chosen()}[$__rate_interval]))", "failed"),
                (f"sum (increase(apishield_ledger_contended_total{chosen()}[$__rate_interval]))", "contended"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Other",
                "Events under (other), whose tenant has too many endpoints or series; and those with absurd times.",
                "reqps",
                (per_second("apishield_ledger_other_series_total"), "(other)"),
                (per_second("apishield_ledger_clamped_events_total"), "absurd times"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Quotas and the ledger",
                "Units that quotas count less (missing) or more than the ledger (orphaned: no event; waiting: not taken).",
                "none",
                (highest("apishield_ledger_drift_units", "kind"), "{{kind}}"),
                span=THIRD,
            )
        )
        .with_row(Row("Kafka (empty without it)"))
        .with_panel(
            lines(
                "Published",
                "Events a second that Kafka acknowledged.",
                "reqps",
                (per_second("apishield_kafka_published_events_total", "instance"), "{{instance}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Waiting for Kafka",
                "For how long the oldest events of each node wait to be acknowledged.",
                "s",
                (highest("apishield_kafka_publish_age_seconds", "instance"), "{{instance}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Lag",
                "Messages of each partition that no worker has taken yet.",
                "none",
                (highest("apishield_kafka_consumer_lag_messages", "partition"), "{{partition}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Not taken",
                "Times a second that a worker could not take messages; it tries them again.",
                "cps",
                (per_second("apishield_kafka_consume_failures_total", "instance"), "{{instance}}"),
                span=THIRD,
            )
        )
        .with_panel(
            lines(
                "Dead letters",
                "Messages that can't be read, or that the ledger failed at; they lie in the dead-letter topic with the reason.",
                "none",
                (
                    or_zero(f"sum (increase(apishield_kafka_dead_letters_total{chosen()}[$__rate_interval]))"),
                    "dead letters",
                ),
                span=THIRD,
            )
        )
    )
