"""The series of some keys or customers are found by an index, however many series a tenant has."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in ("key_id", "customer_id"):
        op.create_index(op.f(f"ix_series_set_id_{column}"), "series", ["set_id", column], unique=False)
