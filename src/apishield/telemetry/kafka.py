"""Names, for Prometheus, the numbers of what goes through Kafka. Apart from ``parts``: its client is an extra."""

from __future__ import annotations

from apishield.core.ports import Clock
from apishield.telemetry.metrics import Metrics
from apishield.workers.consume import ConsumerStats
from apishield.workers.publish import PublisherStats


def show_publisher(metrics: Metrics, stats: PublisherStats, clock: Clock) -> None:
    """What goes from the spools of this node to the topic."""
    metrics.counter("apishield_kafka_published_events_total", lambda: stats.events)
    metrics.counter("apishield_kafka_publish_failures_total", lambda: stats.failures)
    metrics.gauge("apishield_kafka_publish_age_seconds", lambda: stats.age_seconds(clock()))


def show_consumer(metrics: Metrics, stats: ConsumerStats) -> None:
    """What goes from the topic to the ledger."""
    metrics.counter("apishield_kafka_consumed_messages_total", lambda: stats.messages)
    metrics.counter("apishield_kafka_consume_failures_total", lambda: stats.failures)
    metrics.gauge(
        "apishield_kafka_consumer_lag_messages",
        lambda: {str(partition): float(messages) for partition, messages in stats.lag.items()},
    )
    metrics.counter("apishield_kafka_lost_messages_total", lambda: stats.lost_messages)
    metrics.counter("apishield_kafka_dead_letters_total", lambda: stats.dead_letters)
