"""The ledger's tables: sums of events, the positions up to which they were taken, and the decisions themselves.

No row refers to a tenant's or key's row: the ledger outlives what it tells of. A ``bucket`` is the start of a minute, hour,
day or week, in seconds since the Unix epoch (UTC). ``''`` stands for a dimension that is unknown or not in the grouping set.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from apishield.stores.sql.schema import metadata
from apishield.stores.sql.types import Microseconds

_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only where the type is INTEGER


def _count(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False)


def _text(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False)


series_sets = Table(
    "series_sets",
    metadata,
    Column("id", _Id, primary_key=True),
    _text("tenant_id"),
    _text("environment"),  # live, test
    _text("dims"),  # tenant, key, endpoint, country, full: the dimensions that its series tell apart
    UniqueConstraint("tenant_id", "environment", "dims"),
)

series = Table(
    "series",
    metadata,
    Column("id", _Id, primary_key=True),
    _count("set_id"),
    _text("code"),
    _text("key_id"),
    _text("customer_id"),
    _text("endpoint"),
    _text("method"),
    _text("country"),
    UniqueConstraint("set_id", "code", "key_id", "customer_id", "endpoint", "method", "country"),
    Index(None, "set_id", "key_id"),  # for questions about some keys or customers, whatever their codes
    Index(None, "set_id", "customer_id"),
)

MEASURES = (
    "requests",
    "cost",
    "bytes",
    "results",
    "status_1xx",
    "status_2xx",
    "status_3xx",
    "status_4xx",
    "status_5xx",
    "latency_us",
)
"""The columns of a rollup that add up."""


def _rollup(step: str) -> Table:
    return Table(
        f"rollup_{step}",
        metadata,
        _count("set_id"),
        _count("bucket"),
        _count("series_id"),
        *(_count(name) for name in MEASURES),
        Column("latency", LargeBinary),  # histograms, one after the other, that add up; NULL: no results
        PrimaryKeyConstraint("set_id", "bucket", "series_id"),
        sqlite_with_rowid=False,
    )


rollup_minute = _rollup("minute")
rollup_hour = _rollup("hour")
rollup_day = _rollup("day")

rollup_week = Table(
    "rollup_week",
    metadata,
    _count("set_id"),  # of the sets by key only
    _count("bucket"),
    _count("series_id"),
    *(_count(name) for name in MEASURES),
    PrimaryKeyConstraint("set_id", "bucket", "series_id"),
    sqlite_with_rowid=False,
)
"""Days of keys summed by weeks (seven days from a Thursday on, as the epoch began on one), without latency.

Who ranks all keys or customers reads a row for each of them and each bucket of a period: a third of them in weeks, and narrow.
"""

rollup_units = Table(
    "rollup_units",
    metadata,
    _text("step"),  # minute, hour, day
    _count("set_id"),
    _count("bucket"),
    _count("series_id"),
    _text("unit"),  # any but requests, whose cost is in the rollup itself
    _count("cost"),
    PrimaryKeyConstraint("step", "set_id", "bucket", "series_id", "unit"),
    sqlite_with_rowid=False,
)

address_hour = Table(
    "address_hour",
    metadata,
    _text("tenant_id"),
    _text("environment"),
    _count("bucket"),
    _text("address"),  # '': all that are not told apart
    _count("requests"),
    _count("refused"),
    PrimaryKeyConstraint("tenant_id", "environment", "bucket", "address"),
    sqlite_with_rowid=False,
)

ledger_positions = Table(
    "ledger_positions",
    metadata,
    Column("stream", Text, primary_key=True),
    _count("position"),
    _count("epoch"),  # one more with each claim; whoever holds an older one is fenced
    _text("owner"),
    Column("at_us", Microseconds, nullable=False),
)

ledger_marks = Table(
    "ledger_marks",
    metadata,
    _text("stream"),
    _count("spool"),
    _count("position"),  # the end of the last frame of this spool that was taken from this stream
    Column("at_us", Microseconds, nullable=False),
    PrimaryKeyConstraint("stream", "spool"),
)

ledger_results = Table(
    "ledger_results",
    metadata,
    _count("spool"),
    _count("block"),  # 4,096 decisions
    Column("bits", LargeBinary, nullable=False),  # one a decision whose result was taken
    Column("at_us", Microseconds, nullable=False),  # when the newest of these decisions was made
    PrimaryKeyConstraint("spool", "block"),
    Index(None, "at_us"),
)

ledger_pending = Table(
    "ledger_pending",
    metadata,
    Column("id", _Id, primary_key=True),
    _text("tenant_id"),
    _count("spool"),
    _count("sequence"),
    Column("event", LargeBinary, nullable=False),
    Column("at_us", Microseconds, nullable=False),  # when the decision was made
    Column("tries", Integer, nullable=False),
    Column("next_us", Microseconds, nullable=False),  # when the decision is looked for again
    Index(None, "tenant_id"),
    Index(None, "next_us"),
)

decision_chunks = Table(
    "decision_chunks",
    metadata,
    Column("id", _Id, primary_key=True),
    _text("tenant_id"),
    _text("kind"),  # decision, or result: of decisions in other chunks
    _count("spool"),
    _count("first_sequence"),
    _count("last_sequence"),
    Column("from_us", Microseconds, nullable=False),  # of the decisions, not of their results
    Column("to_us", Microseconds, nullable=False),
    _count("events"),
    Column("payload", LargeBinary, nullable=False),  # compressed
    Index(None, "tenant_id", "kind", "spool", "first_sequence"),
    Index(None, "tenant_id", "kind", "from_us"),
    Index(None, "tenant_id", "kind", "to_us"),
    Index(None, "spool", "kind", "first_sequence"),  # for receipts, whose id alone tells whose they are
)
