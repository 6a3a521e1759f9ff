"""Sums by week of what each key did: to rank all of them reads a third of the rows that their days are."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

WEEK_S = 7 * 86_400
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


def upgrade() -> None:
    op.create_table(
        "rollup_week",
        sa.Column("set_id", sa.BigInteger(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        *(sa.Column(measure, sa.BigInteger(), nullable=False) for measure in MEASURES),
        sa.PrimaryKeyConstraint("set_id", "bucket", "series_id", name=op.f("pk_rollup_week")),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":  # rows are counted up in place, as those of days
        op.execute("ALTER TABLE rollup_week SET (fillfactor = 70)")
    sums = ", ".join(_sum(measure) for measure in MEASURES)
    op.execute(
        f"""INSERT INTO rollup_week (set_id, bucket, series_id, {", ".join(MEASURES)})
        SELECT set_id, bucket - bucket % {WEEK_S}, series_id, {sums} FROM rollup_day
        WHERE set_id IN (SELECT id FROM series_sets WHERE dims = 'key')
        GROUP BY 1, 2, 3"""  # noqa: S608  every part of it is a constant of this file
    )


def _sum(measure: str) -> str:
    """Added up in two halves, for days of what clients made up may hold so much that a sum of them leaves 64 bits."""
    high, low = f"SUM({measure} >> 32)", f"SUM({measure} & {(1 << 32) - 1})"
    total = f"CASE WHEN {high} < {1 << 30} THEN {high} * {1 << 32} + {low} ELSE {1 << 62} END"
    return f"CAST({total} AS BIGINT)"
