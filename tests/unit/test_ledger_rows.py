"""What an intake adds to the rollups: weeks of keys come to the sums of their days."""

from __future__ import annotations

from apishield.analytics.histogram import Histogram
from apishield.analytics.rollup import Measures
from apishield.analytics.steps import DAY_S, MINUTE_S, WEEK_S, Step
from apishield.stores.sql.ledger.rows import Places, RollupRows

FULL, KEY, ENDPOINT, COUNTRY, TENANT = range(1, 6)
WEEK = 2_967 * WEEK_S


def places(series_id: int) -> Places:
    """Where a series counts, by the same number in every set."""
    return (FULL, series_id), (KEY, series_id), (ENDPOINT, series_id), (COUNTRY, series_id), (TENANT, series_id)


def test_days_of_a_key_that_lie_in_one_week_become_one_row_of_it() -> None:
    latency = Histogram({7: 1})
    cells = [
        (places(series_id), WEEK + day * DAY_S + 90 * MINUTE_S, Measures(requests=1 + day, cost=2, latency=latency))
        for day in (0, 1, 6, 7)
        for series_id in (1, 2)
    ]
    rows = RollupRows(cells)
    assert [row[:5] for row in rows.weeks] == [
        (KEY, WEEK, 1, 10, 6),
        (KEY, WEEK, 2, 10, 6),
        (KEY, WEEK + WEEK_S, 1, 8, 2),
        (KEY, WEEK + WEEK_S, 2, 8, 2),
    ]
    days = [row for row in rows.cold[Step.DAY] if row[0] == KEY]
    assert sum(row[3] for row in days) == sum(row[3] for row in rows.weeks)
    assert {len(row) for row in rows.weeks} == {len(days[0]) - 1}  # without latency


def test_a_week_of_what_clients_made_up_still_fits_into_64_bits() -> None:
    cells = [
        (places(1), WEEK + minute * MINUTE_S, Measures(requests=1, cost=2**60)) for minute in range(0, 7 * 1440, 2)
    ]
    (week,) = RollupRows(cells).weeks
    assert week[:5] == (KEY, WEEK, 1, 5040, 2**61)
