"""A store's verdict in words: what a decision says of its limits, with code, message and headers.

Owns: the texts of refusals by a limit, the order of limits (most restrictive first). Does not own: the form of the headers
(``headers``), refusals by anything else than a limit (``services.engine``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from apishield.core.decision import LimitState
from apishield.core.headers import rate_limit_headers, restriction
from apishield.core.model import SECOND_US, Concurrency, Limit, Quota, Verdict
from apishield.core.outcome import Outcome
from apishield.core.policies import Meter

MAX_LISTED: Final = 20
"""Limits that a decision lists, enforced and in shadow each: a thousand would be an answer of 245 KB."""
MAX_IN_HEADERS: Final = 10
"""Limits in ``RateLimit`` and its policy: about 1 KB, where many a proxy takes 4 KB of headers in all."""


class Rendered(msgspec.Struct, frozen=True, gc=False):
    """What a verdict comes to. ``retry_after`` is in seconds; ``headers`` lack those of the decision itself.

    ``omitted`` is the number of limits that had a say and are not listed.
    """

    code: str
    message: str
    limits: list[LimitState]
    shadow: list[LimitState]
    retry_after: float | None
    headers: dict[str, str]
    omitted: int = 0


def render(meters: Sequence[Meter], verdict: Verdict, *, draft: bool = True, legacy: bool = True) -> Rendered:
    """Renders ``verdict``, whose outcomes are parallel to ``meters``."""
    shadow: list[LimitState] = []
    if len(meters) == 1 and not meters[0].shadow:  # as most are: a loop over one costs a check a third of all this
        enforced = [(meters[0], verdict.outcomes[0])]
    else:
        enforced = []
        for standing in zip(meters, verdict.outcomes, strict=True):
            meter = standing[0]
            if meter.shadow:
                shadow.append(limit_state(meter, standing[1]))
            else:
                enforced.append(standing)
    omitted, in_headers = 0, enforced
    if len(enforced) > 1:
        enforced.sort(key=restriction)
        if len(enforced) > MAX_IN_HEADERS:
            in_headers = enforced[:MAX_IN_HEADERS]
            omitted = _cut(enforced)
    if len(shadow) > MAX_LISTED:
        shadow.sort(key=lambda state: (not state.violated, state.remaining / state.limit))
        omitted += _cut(shadow)
    headers = rate_limit_headers(in_headers, verdict.now_us, draft=draft, legacy=legacy)
    limits = [limit_state(meter, outcome) for meter, outcome in enforced]
    if verdict.admitted:
        return Rendered("ok", "", limits, shadow, None, headers, omitted)
    meter, outcome = enforced[0]
    limit, wait_us = meter.limit, outcome.retry_after_us
    retry_after = None
    if wait_us is not None:
        retry_after = -(-wait_us // 1000) / 1000
        headers["Retry-After"] = str(-(-wait_us // SECOND_US))
    return Rendered(limit_code(limit), limit_message(limit, wait_us), limits, shadow, retry_after, headers, omitted)


def _cut(listed: list[Any]) -> int:
    """Keeps the first of what is listed; returns how many are left out."""
    omitted = max(0, len(listed) - MAX_LISTED)
    del listed[MAX_LISTED:]
    return omitted


def limit_state(meter: Meter, outcome: Outcome) -> LimitState:
    """One limit after the decision."""
    return LimitState(
        meter.name,
        meter.policy_id,
        meter.strategy,
        meter.unit,
        meter.ceiling,
        outcome.remaining if outcome.remaining > 0 else 0,
        meter.window_seconds,
        -(-outcome.reset_us // 1000) / 1000,
        not outcome.admitted,
    )


def limit_code(limit: Limit) -> str:
    """The code of a refusal by ``limit``."""
    if isinstance(limit.algorithm, Quota):
        return "quota_exceeded"
    return "concurrency_exceeded" if isinstance(limit.algorithm, Concurrency) else "rate_limited"


def limit_message(limit: Limit, wait_us: int | None) -> str:
    """Why ``limit`` refuses, and when it no longer would; ``None`` where the cost can never fit."""
    name, requests, unit = limit.name, limit.algorithm.ceiling, limit.unit
    if wait_us is None:
        return f"The request costs more than the limit {name!a} ever allows ({requests} {unit})."
    return f"The limit {name!a} ({requests} {unit}) is used up. Try again in {-(-wait_us // SECOND_US)} s."
