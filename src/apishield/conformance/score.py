"""What a run comes to, and which promises were broken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from apishield.conformance.judge import capacity
from apishield.conformance.schedules import EARLY_SHARE, Finding, Promise
from apishield.conformance.subjects import Subject
from apishield.core.model import SECOND_US, FixedWindow, SlidingWindow, TokenBucket
from apishield.core.rate_limiter.parse import RateAlgorithm

NEVER_OVER = "never over the limit"
HARDLY_UNDER = "hardly under the limit"


class Trials(msgspec.Struct, frozen=True):
    """How often a promise was tried and kept, and the most and fewest units of one trial."""

    tried: int
    kept: int
    most_units: int
    fewest_units: int


class Score(msgspec.Struct, frozen=True):
    """One set of limits, scored. ``over_units`` and ``early_percent`` are the worst that certainly happened.

    ``over_percent`` is of the limit, ``early_percent`` of its window: how much too early a refusal came at the earliest.
    ``trials`` is by promise; one that could not be tried is absent.
    """

    limits: list[str]
    limit_units: int
    checks: int
    admitted: int
    over_units: int
    over_percent: float
    over_in: str
    early_percent: float
    early_in: str
    trials: dict[str, Trials]
    broken: list[str]


def score(rules: Sequence[RateAlgorithm], runs: Iterable[tuple[str, Subject]], findings: Sequence[Finding]) -> Score:
    """Scores what ``runs`` (schedule, subject) went through, and what their schedules found."""
    checks = admitted = over_units = 0
    over_share = early_share = 0.0
    over_in = early_in = ""
    for schedule, subject in runs:
        checks += len(subject.hits)
        admitted += sum(hit.admitted for hit in subject.hits)
        for rule in rules:
            units = subject.excess(rule)
            if units / capacity(rule) > over_share:
                over_units, over_share, over_in = units, units / capacity(rule), schedule
        early = max((subject.earliness(hit) for hit in subject.hits if not hit.admitted), default=0.0)
        if early > early_share:
            early_share, early_in = early, schedule
    trials = {promise.value: _trials(tried) for promise in Promise if (tried := _of(promise, findings))}
    broken = [NEVER_OVER] * bool(over_units) + [HARDLY_UNDER] * (early_share > EARLY_SHARE)
    broken += [promise for promise, trial in trials.items() if trial.kept < trial.tried]
    return Score(
        [describe(rule) for rule in rules],
        min(capacity(rule) for rule in rules),
        checks,
        admitted,
        over_units,
        round(100 * over_share, 3),
        over_in,
        round(100 * early_share, 3),
        early_in,
        trials,
        broken,
    )


def describe(rule: RateAlgorithm) -> str:
    """``rule`` as ``--limit`` takes it."""
    seconds = rule.window_us // SECOND_US
    text = f"{rule.requests} per {seconds} second{'s' * (seconds != 1)}"
    match rule:
        case SlidingWindow():
            return text
        case FixedWindow():
            return f"{text} fixed"
        case TokenBucket():
            return f"{text} burst {rule.burst}"


def _of(promise: Promise, findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.promise is promise]


def _trials(findings: Sequence[Finding]) -> Trials:
    units = [finding.units for finding in findings]
    return Trials(len(findings), sum(finding.kept for finding in findings), max(units), min(units))
