"""The ledger: rollups, positions of the streams, results that were taken, decisions."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
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
    _series()
    for step in ("minute", "hour", "day"):
        _rollup(f"rollup_{step}")
    op.create_table(
        "rollup_units",
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("set_id", sa.BigInteger(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("step", "set_id", "bucket", "series_id", "unit", name=op.f("pk_rollup_units")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "address_hour",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "environment", "bucket", "address", name=op.f("pk_address_hour")),
        sqlite_with_rowid=False,
    )
    _taken()
    _decisions()
    if op.get_bind().dialect.name == "postgresql":
        # Rows are counted up in place: room in their page spares the index a new entry. Compressed is compressed.
        for table in ("rollup_minute", "rollup_hour", "rollup_day"):
            op.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")
        op.execute("ALTER TABLE decision_chunks ALTER COLUMN payload SET STORAGE EXTERNAL")


def _series() -> None:
    op.create_table(
        "series_sets",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("dims", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series_sets")),
        sa.UniqueConstraint("tenant_id", "environment", "dims", name=op.f("uq_series_sets_tenant_id_environment_dims")),
    )
    dimensions = ("code", "key_id", "customer_id", "endpoint", "method", "country")
    op.create_table(
        "series",
        sa.Column("id", ID, nullable=False),
        sa.Column("set_id", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in dimensions),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint(
            "set_id", *dimensions, name=op.f("uq_series_set_id_code_key_id_customer_id_endpoint_method_country")
        ),
    )


def _rollup(name: str) -> None:
    op.create_table(
        name,
        sa.Column("set_id", sa.BigInteger(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("series_id", sa.BigInteger(), nullable=False),
        *(sa.Column(measure, sa.BigInteger(), nullable=False) for measure in MEASURES),
        sa.Column("latency", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("set_id", "bucket", "series_id", name=op.f(f"pk_{name}")),
        sqlite_with_rowid=False,
    )


def _taken() -> None:
    op.create_table(
        "ledger_positions",
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stream", name=op.f("pk_ledger_positions")),
    )
    op.create_table(
        "ledger_marks",
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("spool", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stream", "spool", name=op.f("pk_ledger_marks")),
    )
    op.create_table(
        "ledger_results",
        sa.Column("spool", sa.BigInteger(), nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("spool", "block", name=op.f("pk_ledger_results")),
    )
    op.create_index(op.f("ix_ledger_results_at_us"), "ledger_results", ["at_us"], unique=False)
    op.create_table(
        "ledger_pending",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("spool", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.LargeBinary(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_pending")),
    )
    op.create_index(op.f("ix_ledger_pending_tenant_id"), "ledger_pending", ["tenant_id"], unique=False)
    op.create_index(op.f("ix_ledger_pending_next_us"), "ledger_pending", ["next_us"], unique=False)


def _decisions() -> None:
    op.create_table(
        "decision_chunks",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("spool", sa.BigInteger(), nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("to_us", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision_chunks")),
    )
    for columns in (
        ["tenant_id", "kind", "spool", "first_sequence"],
        ["tenant_id", "kind", "from_us"],
        ["tenant_id", "kind", "to_us"],
        ["spool", "kind", "first_sequence"],
    ):
        name = "_".join(["ix_decision_chunks", *columns])
        op.create_index(op.f(name), "decision_chunks", columns, unique=False)
