"""A timeseries is what counting the events one by one gives, step by step. On both databases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from apishield.analytics.periods import Horizon
from apishield.analytics.steps import SECOND_US, Step, floor
from apishield.core.events import DecisionEvent
from apishield.services.analytics.timeseries import GROUPINGS, GroupBy
from apishield.stores.sql.analytics.plan import Group
from tests.support.analytics_oracle import LABELS, Traffic, hold, questions, step_of, traffic

__all__ = ["traffic"]


async def test_a_timeseries_has_every_event_in_its_own_step_of_the_time_zone(traffic: Traffic) -> None:
    held = 0
    for rng, question in questions(traffic, days=6):
        group_by: GroupBy | None = rng.choice((None, *GROUPINGS))
        step = rng.choice((Step.DAY, Step.HOUR))
        found = await traffic.analytics.timeseries(question, step, group_by, limit=2)
        horizon = Horizon.at(question.now_us)
        if floor(question.period.from_us // SECOND_US, Step.DAY) < horizon.minutes_from_s:
            continue  # steps of a zone are told apart as well as hours of UTC can; the sums are held above
        columns = GROUPINGS[group_by] if group_by else ()
        expected: dict[tuple[Group, int], list[DecisionEvent]] = defaultdict(list)
        for event in traffic.of(question):
            group = tuple(LABELS[column](event) for column in columns)
            expected[group, step_of(event.at_us, step, question.time_zone)].append(event)
        for line in found.lines:
            for start_s, figures in zip(found.starts_s, line.points, strict=True):
                hold(figures, traffic.figures(expected[line.group or (), start_s], question.selection.status), question)
        if found.other is not None:
            left = sum(point.sums.requests for point in found.other.points)
            shown = sum(point.sums.requests for line in found.lines for point in line.points)
            assert left + shown == traffic.figures(traffic.of(question), question.selection.status)[0].requests
        held += sum(point.sums.requests for line in found.lines for point in line.points)
    assert held > 100


async def test_a_timeseries_of_what_is_old_has_the_steps_that_are_kept_each_where_its_bucket_begins(
    traffic: Traffic,
) -> None:
    """Whatever step is asked for: hours (of UTC) for what is older than 7 days, days for what is older than 90."""
    held = dict.fromkeys(Step, 0)
    horizon = Horizon.at(traffic.now_us)
    for rng, question in questions(traffic):
        asked = rng.choice(list(Step))
        kept = horizon.finest(question.period.from_us // SECOND_US)
        step = max(asked, kept, key=lambda step: step.seconds)
        minutes = (question.period.to_us - question.period.from_us) // (60 * SECOND_US)
        if kept is Step.MINUTE or minutes > 900 * step.seconds // 60:
            continue
        found = await traffic.analytics.timeseries(question, asked, None, limit=1)
        assert found.step is step, question
        expected: dict[int, list[DecisionEvent]] = defaultdict(list)
        for event in traffic.of(question):
            expected[kept_point(event.at_us, step, question.time_zone, found.starts_s, horizon)].append(event)
        for start_s, figures in zip(found.starts_s, found.lines[0].points, strict=True):
            hold(figures, traffic.figures(expected[start_s], question.selection.status), question)
            held[step] += figures.sums.requests
    assert held[Step.MINUTE] == 0
    assert held[Step.HOUR] > 50
    assert held[Step.DAY] > 100


async def test_the_sum_of_a_timeseries_is_the_summary_however_old_the_period_is(traffic: Traffic) -> None:
    for rng, question in questions(traffic):
        group_by: GroupBy | None = rng.choice((None, *GROUPINGS))
        found = await traffic.analytics.timeseries(question, None, group_by, limit=3)
        lines = [*found.lines, *([found.other] if found.other else [])]
        total = sum(point.sums.requests for line in lines for point in line.points)
        assert total == traffic.figures(traffic.of(question), question.selection.status)[0].requests, question


def kept_point(at_us: int, step: Step, time_zone: str, starts_s: Sequence[int], horizon: Horizon) -> int:
    """The start of the step in which an event counts, of which not more than its hour or day may be known."""
    at_s = at_us // SECOND_US
    if step is Step.HOUR:
        return floor(at_s, Step.HOUR)
    finest = horizon.finest(at_s)
    if finest is Step.DAY:  # the day of its date
        date = datetime.fromtimestamp(at_s, ZoneInfo("UTC")).replace(hour=0, minute=0, second=0)
        start_s = int(date.replace(tzinfo=ZoneInfo(time_zone)).timestamp())
    else:
        start_s = step_of((floor(at_s, finest) + finest.seconds // 2) * SECOND_US, Step.DAY, time_zone)
    return min(max(start_s, starts_s[0]), starts_s[-1])  # a day that reaches out of the period counts whole at its edge
