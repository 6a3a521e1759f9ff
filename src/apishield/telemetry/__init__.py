"""What the service says about itself: log lines and Prometheus metrics.

Owns: how a line is written (``logs``), which metrics there are (``catalogue``), what a process counts (``metrics``), how the
processes of a node are shown as one (``shared``, ``exposition``).
Does not own: what is counted. Parts count in plain integers; ``bootstrap`` and the workers name them here.
"""

from __future__ import annotations

from apishield.telemetry.latency import LATENCY_BUCKETS, Latency
from apishield.telemetry.logs import CONFIDENTIAL_FIELDS, configure_logging
from apishield.telemetry.metrics import Metrics

__all__ = ["CONFIDENTIAL_FIELDS", "LATENCY_BUCKETS", "Latency", "Metrics", "configure_logging"]
