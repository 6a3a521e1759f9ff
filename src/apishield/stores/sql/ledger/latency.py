"""Latency in a rollup's row: histograms one after the other, made into one when they have grown too long.

To append is all that a database needs to know, and two workers that append lose nothing. The first part of a row's bytes is
what was packed last; once the rest outgrows it, everything is packed again, so each byte is read a few times only, however
long a row is added to.
"""

from __future__ import annotations

from typing import Final

from apishield.analytics.histogram import Histogram

LOOSE_BYTES: Final = 256
"""What may lie behind the first part however short that is."""

SQLITE_FUNCTION: Final = "apishield_add_latency"


def added(latency: bytes, more: bytes) -> bytes:
    """``latency`` and ``more`` as one row's bytes."""
    both = latency + more
    return packed(both) if is_loose(both) else both


def is_loose(latency: bytes) -> bool:
    """Whether it is time to pack."""
    first = 4 + (latency[2] | latency[3] << 8) * (1 + latency[1])
    return len(latency) > 2 * first + LOOSE_BYTES


def packed(latency: bytes) -> bytes:
    """The same counts as one histogram."""
    return Histogram.from_bytes(latency).to_bytes()


# As ``is_loose``; the layout of the first four bytes is that of ``analytics.histogram``.
LOOSE_ON_POSTGRESQL: Final = (
    f"length(latency) > {LOOSE_BYTES} AND length(latency) > {LOOSE_BYTES} + 2 * "
    "(4 + (get_byte(latency, 2) + 256 * get_byte(latency, 3)) * (1 + get_byte(latency, 1)))"
)
