"""The summary of a period, with the period of the same length before it beside it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from apishield.analytics.periods import Period, previous
from apishield.analytics.rollup import ADMITTED
from apishield.services.analytics.figures import Figures, figures_of
from apishield.services.analytics.planner import Covered, planned
from apishield.services.analytics.questions import Question
from apishield.stores.sql.analytics.rollups import RollupReader


class PeriodSummary(msgspec.Struct, frozen=True):
    """The figures of one period."""

    covered: Covered
    figures: Figures
    refused_by_code: Mapping[str, int]
    active_keys: int


class Summary(msgspec.Struct, frozen=True):
    """A period and the one before it. ``fresh`` says whether all that this process has decided is in them."""

    now: PeriodSummary
    before: PeriodSummary
    fresh: bool


async def summarise(reader: RollupReader, question: Question, *, fresh: bool) -> Summary:
    """The summary of the question's period."""
    return Summary(
        await _of_period(reader, question, question.period),
        await _of_period(reader, question, previous(question.period)),
        fresh,
    )


async def _of_period(reader: RollupReader, question: Question, period: Period) -> PeriodSummary:
    plan, covered = planned(question, period=period)
    figures = (await figures_of(reader, plan)).get((), Figures.nothing())
    by_code = await reader.sums(plan, ("code",))
    keys, _ = planned(question, ("key_id",), period=period)
    return PeriodSummary(
        covered,
        figures,
        {str(code): sums.requests for (code,), sums in by_code if code != ADMITTED and sums.requests},
        await reader.active_keys(keys),
    )
