"""Replays: what tenants asked about their recorded traffic, and the answers."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replays",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("from_us", sa.BigInteger(), nullable=False),
        sa.Column("to_us", sa.BigInteger(), nullable=False),
        sa.Column("covered_from_us", sa.BigInteger(), nullable=False),
        sa.Column("covered_to_us", sa.BigInteger(), nullable=False),
        sa.Column("warm_from_us", sa.BigInteger(), nullable=False),
        sa.Column("position_us", sa.BigInteger(), nullable=False),
        sa.Column("only_counted", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("status IN ('running', 'done', 'failed', 'cancelled')", name=op.f("ck_replays_status")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_replays_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replays")),
        sa.UniqueConstraint("tenant_id", "id", name=op.f("uq_replays_tenant_id_id")),
    )
    op.create_index(op.f("ix_replays_created_at_us"), "replays", ["created_at_us"], unique=False)
