"""What is asked of the rollups: which grouping set, which stretches of time, which of its series; and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import msgspec

from apishield.analytics.periods import Segment
from apishield.analytics.reports import error_rate
from apishield.analytics.rollup import Dims

Column = Literal["place", "code", "key_id", "customer_id", "endpoint", "method", "country"]
"""What sums can be told apart by; ``place``, always the first, is the number of the plan's step in which a row counts."""

Group = tuple[str | int, ...]
"""The values of the columns that sums are told apart by, in their order."""


class Cell(NamedTuple):
    """What is summed together: rows that count in ``group`` and, where they are moved, no longer in the group ``out_of``."""

    group: Group
    out_of: Group | None = None


class Selection(msgspec.Struct, frozen=True):
    """Which series count: the values that they must have; ``None`` is any.

    ``status`` is a class of HTTP status (5 is 5xx): only the checks that ended so are counted, by whatever series.
    """

    codes: frozenset[str] | None = None
    key_id: str | None = None
    customer_id: str | None = None
    endpoint: str | None = None
    method: str | None = None
    country: str | None = None
    status: int | None = None

    def columns(self) -> dict[str, str]:
        """The columns that are filtered by one value."""
        names = ("key_id", "customer_id", "endpoint", "method", "country")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Plan(msgspec.Struct, frozen=True):
    """A question to the rollups: of the set ``dims``, within ``segments``, the series of ``selection``.

    ``starts_s``, in epoch seconds, are where the steps begin that sums by ``place`` tell apart. ``moves`` are buckets within
    ``segments`` that count in another step than the next longer bucket around them (see ``periods.moves``).
    """

    dims: Dims
    segments: Sequence[Segment]
    selection: Selection = Selection()
    starts_s: Sequence[int] = ()
    moves: Sequence[Segment] = ()


class Sums(msgspec.Struct):
    """Sums over series and time. ``results`` and ``errors`` are of checks that were allowed; ``statuses`` of all, 1xx first."""

    requests: int = 0
    allowed: int = 0
    cost: int = 0
    bytes: int = 0
    results: int = 0
    errors: int = 0
    statuses: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)

    @property
    def refused(self) -> int:
        """Checks that were not allowed."""
        return self.requests - self.allowed

    @property
    def error_rate(self) -> float | None:
        """The share of reported results that are 5xx; ``None`` where none was reported."""
        return error_rate(self.errors, self.results)

    def add(self, other: Sums, sign: int = 1) -> Self:
        """Adds (or, with -1, takes away) ``other``, and returns itself."""
        self.requests += sign * other.requests
        self.allowed += sign * other.allowed
        self.cost += sign * other.cost
        self.bytes += sign * other.bytes
        self.results += sign * other.results
        self.errors += sign * other.errors
        (one, two, three, four, five), more = self.statuses, other.statuses
        self.statuses = (
            one + sign * more[0],
            two + sign * more[1],
            three + sign * more[2],
            four + sign * more[3],
            five + sign * more[4],
        )
        return self
