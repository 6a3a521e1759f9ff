"""Every metric: name, kind, labels, and how the numbers of several processes become one.

Labels are bounded by what they are: codes of the catalogue of problems, route templates, names of loops; names of limits are
bounded by count (``metrics.MAX_LIMITS``). Never a key, an address or a tenant.

``docs/reference/metrics.md`` is made from this.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """Prometheus' types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Combine(StrEnum):
    """What a node shows of the values that its processes have."""

    SUM = "sum"
    MAX = "max"
    EACH = "each"  # side by side, with the label ``process``


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric. ``name`` is what PromQL calls it; counters end in ``_total``."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    combine: Combine = Combine.SUM


def _counter(name: str, text: str, *labels: str, combine: Combine = Combine.SUM) -> Definition:
    return Definition(name, Kind.COUNTER, text, labels, combine)


def _gauge(name: str, text: str, *labels: str, combine: Combine = Combine.MAX) -> Definition:
    return Definition(name, Kind.GAUGE, text, labels, combine)


def _histogram(name: str, text: str) -> Definition:
    return Definition(name, Kind.HISTOGRAM, text)


CHECKS: Final = (
    _counter("apishield_checks_total", "Checks decided, by code of the decision.", "code"),
    _histogram("apishield_decision_seconds", "From a check's arrival to its decision."),
    _counter(
        "apishield_limit_refusals_total",
        "Checks refused by a limit, by the name of the limit or policy; names beyond the first 200 count as (other).",
        "limit",
        "strategy",
    ),
    _counter("apishield_degraded_decisions_total", "Checks decided without the store, or with an old snapshot."),
    _counter(
        "apishield_shadow_would_refuse_total",
        "Times a limit in shadow would have refused a check that was let through.",
    ),
    _counter("apishield_shadow_admitted_total", "Times a limit in shadow agreed to a check that was let through."),
)

STORE: Final = (
    _histogram("apishield_store_seconds", "One trip to the counters' store."),
    _gauge("apishield_store_degraded", "1 while checks are decided without Redis (the breaker is open)."),
    _counter("apishield_store_failures_total", "Trips to Redis that failed or took too long."),
    _counter("apishield_store_opened_total", "Times the breaker opened: Redis was given up until it answers again."),
    _counter("apishield_store_local_decisions_total", "Checks decided by this node alone."),
    _counter("apishield_store_charges_returned_total", "Local charges that were brought back to Redis when it healed."),
    _counter("apishield_store_charges_lost_total", "Local charges that could not be brought back to Redis."),
    _gauge("apishield_counters", "Counters held in memory (without Redis).", combine=Combine.SUM),
)

NODE: Final = (
    _gauge("apishield_build_info", "Version of this node; always 1.", "version", "python"),
    _gauge(
        "apishield_live_nodes", "Processes with the data plane, of all nodes, that said within 10 s that they live."
    ),
    _gauge("apishield_snapshot_age_seconds", "Age of what this node knows of keys, policies and blocks."),
    _gauge("apishield_snapshot_keys", "API keys that this node knows."),
    _gauge("apishield_loop_failing", "1 while a background loop of the node fails.", "loop"),
    _counter("apishield_http_requests_total", "Answers of the control plane.", "method", "route", "status"),
    _histogram("apishield_http_request_seconds", "Requests of the control plane."),
)

PROCESSES: Final = (
    _gauge("apishield_process_up", "1 while a process of the node publishes its numbers.", combine=Combine.EACH),
    _counter("process_cpu_seconds_total", "User and system CPU time.", combine=Combine.EACH),
    _gauge("process_resident_memory_bytes", "Resident memory.", combine=Combine.EACH),
    _gauge("process_virtual_memory_bytes", "Virtual memory.", combine=Combine.EACH),
    _gauge("process_open_fds", "Open file descriptors.", combine=Combine.EACH),
    _gauge("process_max_fds", "Most file descriptors that may be open.", combine=Combine.EACH),
    _gauge("process_start_time_seconds", "Start of the process, since the Unix epoch.", combine=Combine.EACH),
)

SPOOL: Final = (
    _counter("apishield_spool_events_total", "Events written to the spool."),
    _counter("apishield_spool_written_bytes_total", "Bytes written to the spool."),
    _gauge("apishield_spool_bytes", "Bytes of the spools on disk; what was taken is deleted file by file."),
    _gauge("apishield_spool_limit_bytes", "The most that the spool may hold (APISHIELD_SPOOL_BYTES)."),
    _gauge(
        "apishield_spool_undrained_age_seconds",
        "Age that no event exceeds which is not in the ledger (with Kafka: not published) yet.",
    ),
    _counter(
        "apishield_spool_folded_events_total", "Decisions of which only the count was kept, because the spool was full."
    ),
    _counter(
        "apishield_spool_flood_events_total", "Refusals of which only the count was kept, because there were so many."
    ),
    _counter("apishield_spool_lost_results_total", "Results and settlements that were refused for want of room."),
    _counter(
        "apishield_spool_failed_writes_total", "Writes to the spool that failed; what they held is written later."
    ),
    _counter("apishield_spool_damaged_frames_total", "Frames that can't be read, and were set aside."),
)

LEDGER: Final = (
    _counter("apishield_ledger_events_total", "Events taken into the ledger."),
    _counter(
        "apishield_results_total",
        "Answers of protected APIs to admitted checks, as reported, by class of status; each once, as the ledger counts it.",
        "status",
    ),
    _histogram("apishield_result_seconds", "Latency of these answers, where it is kept."),
    _gauge(
        "apishield_ledger_newest_decision_timestamp_seconds",
        "Time of the newest decision that was taken, since the Unix epoch.",
    ),
    _counter("apishield_ledger_duplicates_total", "Messages and results that came again, and were dropped."),
    _counter(
        "apishield_ledger_late_results_total",
        "Results that came over 24 h after their decision, or whose decision never came; dropped.",
    ),
    _counter(
        "apishield_ledger_put_aside_total", "Results and settlements that came before their decision, and wait for it."
    ),
    _counter(
        "apishield_ledger_put_aside_lost_total",
        "Those that could not wait, because too many of their tenant did already.",
    ),
    _counter("apishield_ledger_failures_total", "Times that spooled events could not be taken; they are tried again."),
    _counter("apishield_ledger_fenced_total", "Intakes that were refused, because another worker has taken over."),
    _counter(
        "apishield_ledger_contended_total", "Transactions that were tried again, because another worker was in the way."
    ),
    _counter(
        "apishield_ledger_unreadable_frames_total", "Frames that are whole and yet can't be understood; put aside."
    ),
    _counter("apishield_ledger_clamped_events_total", "Events whose time was absurd, and counted as of their arrival."),
    _counter(
        "apishield_ledger_other_series_total",
        "Events counted under (other), because their tenant has too many distinct endpoints or series.",
    ),
    _counter("apishield_ledger_healed_units_total", "Units that quotas lacked, and that were charged again."),
    _gauge(
        "apishield_ledger_drift_units",
        "Units that quotas count less (missing) or more than the ledger: their event is lost (orphaned) or may wait (waiting).",
        "kind",
    ),
)

KAFKA: Final = (
    _counter("apishield_kafka_published_events_total", "Events that Kafka has acknowledged."),
    _counter(
        "apishield_kafka_publish_failures_total", "Times that events could not be published; they are tried again."
    ),
    _gauge("apishield_kafka_publish_age_seconds", "For how long the oldest events wait for Kafka to acknowledge them."),
    _counter("apishield_kafka_consumed_messages_total", "Messages taken from the topic."),
    _counter("apishield_kafka_consume_failures_total", "Times that messages could not be taken; they are tried again."),
    _gauge("apishield_kafka_consumer_lag_messages", "Messages that no worker has taken yet.", "partition"),
    _counter("apishield_kafka_lost_messages_total", "Messages that Kafka had deleted before they were taken."),
    _counter(
        "apishield_kafka_dead_letters_total",
        "Messages that can't be read or that the ledger failed at; they lie in the dead-letter topic.",
    ),
)

SECTIONS: Final = {
    "Checks": CHECKS,
    "The counters' store": STORE,
    "The spool": SPOOL,
    "The ledger": LEDGER,
    "Kafka": KAFKA,
    "The node": NODE,
    "Its processes": PROCESSES,
}
"""The metrics as the documentation shows them."""

DEFINITIONS: Final = {definition.name: definition for section in SECTIONS.values() for definition in section}
"""Every metric by its name."""
