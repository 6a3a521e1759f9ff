"""Names, for Prometheus, the numbers that the parts of a process keep about themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from apishield.core.model import SECOND_US
from apishield.core.ports import Clock, CounterStore
from apishield.services.drain import SpoolDrain
from apishield.services.ledger import LedgerStats
from apishield.services.loops import Loop
from apishield.services.reconcile import ReconcileStats
from apishield.services.shadow import ShadowNotes
from apishield.services.snapshot import Snapshot
from apishield.stores.failover import FailoverStats, FailoverStore
from apishield.stores.memory import MemoryStore
from apishield.stores.spool.files import bytes_in
from apishield.stores.spool.writer import WriterStats
from apishield.telemetry.metrics import Metrics


def show_snapshot(metrics: Metrics, snapshot: Snapshot) -> None:
    """How much this process knows of keys, and how old that is."""
    metrics.gauge("apishield_snapshot_age_seconds", lambda: snapshot.age_us() / SECOND_US)
    metrics.gauge("apishield_snapshot_keys", lambda: len(snapshot))


def show_decisions(metrics: Metrics, shadow: ShadowNotes, degraded_decisions: Callable[[], int]) -> None:
    """What is counted of decisions besides their codes."""
    metrics.counter("apishield_degraded_decisions_total", degraded_decisions)
    metrics.counter("apishield_shadow_would_refuse_total", lambda: shadow.would_refuse)
    metrics.counter("apishield_shadow_admitted_total", lambda: shadow.admitted)


def show_store(metrics: Metrics, store: CounterStore) -> None:
    """How the counters' store does. One in memory can't fail: it shows zeros, so that an alert's expression has a value."""
    stats = store.stats if isinstance(store, FailoverStore) else FailoverStats()
    metrics.gauge("apishield_store_degraded", lambda: isinstance(store, FailoverStore) and store.is_degraded)
    metrics.counter("apishield_store_failures_total", lambda: stats.failures)
    metrics.counter("apishield_store_opened_total", lambda: stats.times_opened)
    metrics.counter("apishield_store_local_decisions_total", lambda: stats.local_decisions)
    metrics.counter("apishield_store_charges_returned_total", lambda: stats.brought_back)
    metrics.counter("apishield_store_charges_lost_total", lambda: stats.not_brought_back)
    if isinstance(store, MemoryStore):
        metrics.gauge("apishield_counters", lambda: len(store))


def show_loops(metrics: Metrics, loops: Sequence[Loop]) -> None:
    """Which loops fail."""
    metrics.gauge("apishield_loop_failing", lambda: {loop.name: float(loop.failing) for loop in loops})


def show_spool_writer(metrics: Metrics, stats: WriterStats) -> None:
    """What this process wrote down for the ledger."""
    metrics.counter("apishield_spool_events_total", lambda: stats.events)
    metrics.counter("apishield_spool_written_bytes_total", lambda: stats.bytes)
    metrics.counter("apishield_spool_folded_events_total", lambda: stats.folded_events)
    metrics.counter("apishield_spool_flood_events_total", lambda: stats.flood_events)
    metrics.counter("apishield_spool_lost_results_total", lambda: stats.lost_results)
    metrics.counter("apishield_spool_failed_writes_total", lambda: stats.failed_writes)


def show_spool_room(metrics: Metrics, root: Path, max_bytes: int) -> None:
    """How much of the disk the spools of the node take."""
    metrics.gauge("apishield_spool_bytes", lambda: _bytes_in(root))
    metrics.gauge("apishield_spool_limit_bytes", lambda: max_bytes)


def _bytes_in(root: Path) -> int:
    try:
        return bytes_in(root)
    except OSError:
        return 0  # a spool that is removed this moment, or a disk whose trouble others tell of


def show_drain(metrics: Metrics, drain: SpoolDrain, clock: Clock) -> None:
    """How far the one that drains this node's spools is. Where another process does, it tells."""
    began_at_us = clock()

    def age_seconds() -> float | dict[str, float]:
        if not drain.draining:
            return {}
        return max(0, clock() - (drain.stats.caught_up_at_us or began_at_us)) / SECOND_US

    files = drain.spools.stats
    metrics.gauge("apishield_spool_undrained_age_seconds", age_seconds)
    metrics.counter("apishield_spool_folded_events_total", lambda: files.folded_events)
    metrics.counter("apishield_spool_damaged_frames_total", lambda: files.damaged_frames)
    metrics.counter("apishield_ledger_failures_total", lambda: drain.stats.failures)
    metrics.counter("apishield_ledger_unreadable_frames_total", lambda: drain.stats.unreadable_frames)


def show_reconcile(metrics: Metrics, stats: ReconcileStats) -> None:
    """How far quotas and the ledger are apart, where this process is the one that looks."""
    metrics.counter("apishield_ledger_healed_units_total", lambda: stats.healed_units)
    metrics.gauge("apishield_ledger_drift_units", lambda: {k: float(v) for k, v in stats.drift_units.items()})


def show_ledger(metrics: Metrics, stats: LedgerStats) -> None:
    """What this process has taken into the ledger."""
    metrics.show_answers()
    metrics.counter("apishield_ledger_events_total", lambda: stats.events)
    metrics.gauge(
        "apishield_ledger_newest_decision_timestamp_seconds",
        lambda: stats.newest_us / SECOND_US if stats.newest_us else {},
    )
    metrics.counter("apishield_ledger_duplicates_total", lambda: stats.duplicates)
    metrics.counter("apishield_ledger_late_results_total", lambda: stats.late_dropped)
    metrics.counter("apishield_ledger_put_aside_total", lambda: stats.pending)
    metrics.counter("apishield_ledger_put_aside_lost_total", lambda: stats.pending_dropped)
    metrics.counter("apishield_ledger_fenced_total", lambda: stats.fenced)
    metrics.counter("apishield_ledger_contended_total", lambda: stats.contended)
    metrics.counter("apishield_ledger_unreadable_frames_total", lambda: stats.broken_frames)
    metrics.counter("apishield_ledger_clamped_events_total", lambda: stats.clamped)
    metrics.counter("apishield_ledger_other_series_total", lambda: stats.other_series)
