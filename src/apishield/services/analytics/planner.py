"""From a question to a plan: the smallest grouping set that tells apart what is asked, and the fewest buckets that hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from apishield.analytics.periods import Horizon, Period, moves, resolution, segments, steps
from apishield.analytics.rollup import Dims
from apishield.analytics.steps import SECOND_US, Step
from apishield.errors import Fault, ProblemError
from apishield.services.analytics.questions import Question
from apishield.stores.sql.analytics.plan import Column, Plan, Selection

_COLUMNS: Final[Mapping[Dims, frozenset[str]]] = {  # smallest first
    Dims.TENANT: frozenset(),
    Dims.COUNTRY: frozenset({"country"}),
    Dims.ENDPOINT: frozenset({"endpoint", "method"}),
    Dims.KEY: frozenset({"key_id", "customer_id"}),
}
_OF_ALL_SETS: Final = frozenset({"place", "code"})


class Covered(msgspec.Struct, frozen=True):
    """The period that an answer is of; ``resolution`` is longer than a minute where its edges are met only that well."""

    period: Period
    resolution: Step


def planned(question: Question, by: Sequence[Column] = (), period: Period | None = None) -> tuple[Plan, Covered]:
    """The plan for sums of the whole period (the question's own, where none is given) by ``by``."""
    period = question.period if period is None else period
    horizon = Horizon.at(question.now_us)
    plan = Plan(dims_of(question.selection, by), segments(*period, horizon), question.selection)
    return plan, Covered(period, resolution(*period, horizon))


def starts_of(question: Question, step: Step) -> list[int]:
    """The starts (epoch seconds) of the steps of the question's time zone. Raises 422 where they are too many.

    Where hours are the shortest that is kept they are hours of UTC: no hour of a zone that is half an hour off has figures.
    """
    begins_among = Horizon.at(question.now_us).finest(question.period.from_us // SECOND_US)
    zone = "UTC" if step is Step.HOUR and begins_among is not Step.MINUTE else question.time_zone
    try:
        return steps(*question.period, step, ZoneInfo(zone))
    except ValueError as error:
        raise ProblemError("validation_failed", str(error), faults=[Fault("?step", str(error))]) from None


def planned_steps(question: Question, by: Sequence[Column], step: Step, starts_s: Sequence[int]) -> Plan:
    """The plan for sums by ``by`` and by steps, as long as ``step``, that begin at ``starts_s``."""
    horizon = Horizon.at(question.now_us)
    parts = segments(*question.period, horizon, step)
    moved = moves(parts, starts_s, horizon)
    return Plan(dims_of(question.selection, by), parts, question.selection, starts_s, moved)


def dims_of(selection: Selection, by: Sequence[Column]) -> Dims:
    """The smallest grouping set that has all that is filtered and told apart."""
    needed = (selection.columns().keys() | set(by)) - _OF_ALL_SETS
    return next((dims for dims, columns in _COLUMNS.items() if needed <= columns), Dims.FULL)
