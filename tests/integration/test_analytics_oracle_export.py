"""An export is what counting the events one by one gives, each in its row. On both databases."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

from apishield.services.analytics import export
from apishield.services.analytics.export import SUBJECTS, Row, Subject
from apishield.stores.sql.analytics.plan import Group, Sums
from tests.support.analytics_oracle import Traffic, grouped, questions, traffic

__all__ = ["traffic"]


async def test_an_export_has_all_that_was_used_in_rows_of_its_own(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_GROUPS_AT_ONCE", 2)  # so that there are several pages
    for rng, question in questions(traffic, status=False):
        subject: Subject | None = rng.choice((None, *SUBJECTS))
        by_day = subject is None or rng.random() < 0.5
        table = await traffic.analytics.export(question, subject, by_day=by_day)
        rows = [row async for page in traffic.analytics.export_pages(table) for row in page]
        assert len({tuple(row.labels) for row in rows}) == len(rows), question
        found = {}
        for group, same in _by_subject(rows, subject, by_day=by_day).items():
            sums, units = Sums(), Counter[str]()
            for row in same:
                sums.add(row.sums)
                units.update(row.units)
            found[group] = (sums, {unit: cost for unit, cost in units.items() if cost})
        columns = SUBJECTS[subject] if subject else ()
        expected = {
            group: traffic.figures(some, None)[:2] for group, some in grouped(traffic.of(question), columns).items()
        }
        assert found == expected, question


def _by_subject(rows: Iterable[Row], subject: Subject | None, *, by_day: bool) -> dict[Group, list[Row]]:
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        labels = tuple(row.labels[:-1] if by_day else row.labels)
        groups[labels[:1] if subject in {"key", "customer"} else labels].append(row)
    return groups
