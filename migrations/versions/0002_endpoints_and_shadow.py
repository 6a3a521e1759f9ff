"""The catalogue of endpoints; what policies in shadow would have refused."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("required_scopes", sa.Text(), nullable=True),
        sa.Column("cost", sa.Text(), nullable=False),
        sa.Column("login", sa.Boolean(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_endpoints_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
        sa.UniqueConstraint("tenant_id", "id", name=op.f("uq_endpoints_tenant_id_id")),
        sa.UniqueConstraint("tenant_id", "method", "shape", name=op.f("uq_endpoints_tenant_id_method_shape")),
    )
    op.create_table(
        "shadow_day",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("policy_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("since_us", sa.BigInteger(), nullable=False),
        sa.Column("would_refuse", sa.BigInteger(), nullable=False),
        sa.Column("admitted", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "policy_id", "day", name=op.f("pk_shadow_day")),
    )
    op.create_index(op.f("ix_shadow_day_day"), "shadow_day", ["day"], unique=False)
    op.create_table(
        "shadow_subjects",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("policy_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("would_refuse", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "policy_id", "day", "subject", name=op.f("pk_shadow_subjects")),
    )
    op.create_index(op.f("ix_shadow_subjects_day"), "shadow_subjects", ["day"], unique=False)
