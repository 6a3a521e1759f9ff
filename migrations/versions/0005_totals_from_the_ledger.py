"""Daily totals of keys come from the ledger, which takes over those that were counted before it."""

# ruff: noqa: S608  every part of a statement is a constant of this file

import time

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# By which columns a series tells requests apart, in each grouping set; endpoints, methods and countries were not counted.
DIMENSIONS = {
    "tenant": ("''", "''"),
    "key": ("key_id", "customer_id"),
    "endpoint": ("''", "''"),
    "country": ("''", "''"),
    "full": ("key_id", "customer_id"),
}
EPOCH_OF_DAY = {
    "sqlite": "CAST(strftime('%s', day) AS INTEGER)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM CAST(day AS date)) AS BIGINT)",
}


def upgrade() -> None:
    _note_when_the_ledger_began()
    _carry_over()
    op.drop_table("usage_day")


def _note_when_the_ledger_began() -> None:
    """Quotas whose period began before are not all in the ledger: what compares the two has to know."""
    used = "SELECT 1 FROM usage_day UNION ALL SELECT 1 FROM usage_period"
    if op.get_bind().execute(sa.text(f"{used} LIMIT 1")).first() is not None:
        statement = sa.text("INSERT INTO meta (name, value) VALUES ('ledger_since_us', :now) ON CONFLICT DO NOTHING")
        op.execute(statement.bindparams(now=str(time.time_ns() // 1000)))


def _carry_over() -> None:
    """Each day becomes rows of its first minute, hour and of the day, so that all steps go on to agree.

    Days that the ledger has counted itself, in a version between two releases, are its own.
    """
    day = EPOCH_OF_DAY[op.get_bind().dialect.name]
    op.execute(
        f"""CREATE TABLE usage_carried AS
        SELECT usage_day.tenant_id AS tenant_id, usage_day.key_id AS key_id, allowed, refused, {day} AS bucket,
            COALESCE(keys.environment, 'live') AS environment, COALESCE(keys.customer_id, '') AS customer_id
        FROM usage_day LEFT JOIN keys ON keys.id = usage_day.key_id AND keys.tenant_id = usage_day.tenant_id"""
    )
    op.execute("DELETE FROM usage_carried WHERE bucket >= (SELECT MIN(bucket) FROM rollup_day)")
    for dims, columns in DIMENSIONS.items():
        # What was refused is one code, for nobody wrote down why.
        _carry_code(dims, columns, "ok", "allowed", cost="requests", status_4xx="0")
        _carry_code(dims, columns, "unknown", "refused", cost="0", status_4xx="requests")
    op.drop_table("usage_carried")


def _carry_code(dims: str, columns: tuple[str, str], code: str, counted: str, *, cost: str, status_4xx: str) -> None:
    """The checks of one code in one grouping set."""
    key_id, customer_id = columns
    carried = f"""SELECT tenant_id, environment, {key_id} AS key_id, {customer_id} AS customer_id, bucket,
            CAST(SUM({counted}) AS BIGINT) AS requests
        FROM usage_carried WHERE {counted} > 0 GROUP BY 1, 2, 3, 4, 5"""
    # ("WHERE true" tells SQLite that ON CONFLICT is not the condition of a join.)
    op.execute(
        f"""INSERT INTO series_sets (tenant_id, environment, dims)
        SELECT DISTINCT tenant_id, environment, '{dims}' FROM ({carried}) AS carried WHERE true ON CONFLICT DO NOTHING"""
    )
    of_set = f"""({carried}) AS carried JOIN series_sets ON series_sets.tenant_id = carried.tenant_id
        AND series_sets.environment = carried.environment AND series_sets.dims = '{dims}'"""
    op.execute(
        f"""INSERT INTO series (set_id, code, key_id, customer_id, endpoint, method, country)
        SELECT DISTINCT series_sets.id, '{code}', carried.key_id, carried.customer_id, '', '', '' FROM {of_set}
        WHERE true ON CONFLICT DO NOTHING"""
    )
    of_series = f"""{of_set} JOIN series ON series.set_id = series_sets.id AND series.code = '{code}'
        AND series.key_id = carried.key_id AND series.customer_id = carried.customer_id
        AND series.endpoint = '' AND series.method = '' AND series.country = ''"""
    for step in ("minute", "hour", "day"):
        op.execute(
            f"""INSERT INTO rollup_{step} (set_id, bucket, series_id, requests, cost, bytes, results,
                status_1xx, status_2xx, status_3xx, status_4xx, status_5xx, latency_us)
            SELECT series_sets.id, bucket, series.id, requests, {cost}, 0, 0, 0, 0, 0, {status_4xx}, 0, 0
            FROM {of_series}"""
        )
