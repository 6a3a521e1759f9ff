"""A store's verdict in words: what a decision says of its limits, with code, message and headers.

Owns: the texts of refusals by a limit, the order of limits (most restrictive first). Does not own: the form of the headers
(``headers``), refusals by anything else than a limit (``services.engine``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from apishield.core.decision import LimitState
from apishield.core.headers import rate_limit_headers, rate_limit_members, restriction
from apishield.core.model import SECOND_US, Concurrency, Limit, Quota, Verdict
from apishield.core.outcome import Outcome
from apishield.core.policies import Meter

MAX_LISTED: Final = 20
"""Limits that a decision lists, enforced and in shadow each: a thousand would be an answer of 245 KB."""
MAX_IN_HEADERS: Final = 10
"""Limits in ``RateLimit`` and its policy: about 1 KB, where many a proxy takes 4 KB of headers in all."""


Standing = tuple[Meter, Outcome]
"""A limit, and what its counter says."""


class Rendered(msgspec.Struct, frozen=True, gc=False):
    """What a verdict comes to, before it is put into a form: a caller that needs no more than headers pays for no more.

    ``enforced`` and ``shadow`` are the limits that are listed, ``omitted`` is the number of those that had a say and are not.
    ``retry_after_us`` is ``None`` where the check passes now or never.
    """

    code: str
    message: str
    now_us: int
    enforced: Sequence[Standing] = ()
    shadow: Sequence[Standing] = ()
    retry_after_us: int | None = None
    omitted: int = 0

    @property
    def retry_after(self) -> float | None:
        """In seconds, rounded up to a millisecond."""
        return None if self.retry_after_us is None else -(-self.retry_after_us // 1000) / 1000

    def limits(self) -> list[LimitState]:
        """The enforced limits as a decision lists them."""
        return [limit_state(meter, outcome) for meter, outcome in self.enforced]

    def shadow_limits(self) -> list[LimitState]:
        """The limits in shadow, likewise."""
        return [limit_state(meter, outcome) for meter, outcome in self.shadow]

    def headers(self, *, draft: bool = True, legacy: bool = True) -> dict[str, str]:
        """The headers of the limits, which lack those of the decision itself."""
        headers = rate_limit_headers(self._in_headers(), self.now_us, draft=draft, legacy=legacy)
        if self.retry_after_us is not None:
            headers["Retry-After"] = f"{-(-self.retry_after_us // SECOND_US)}"
        return headers

    def json_headers(self, *, draft: bool = True, legacy: bool = True) -> str:
        """The same as members of a JSON object, each with a comma behind it."""
        members = rate_limit_members(self._in_headers(), self.now_us, draft=draft, legacy=legacy)
        if self.retry_after_us is not None:
            members += f'"Retry-After":"{-(-self.retry_after_us // SECOND_US)}",'
        return members

    def _in_headers(self) -> Sequence[Standing]:
        return self.enforced if len(self.enforced) <= MAX_IN_HEADERS else self.enforced[:MAX_IN_HEADERS]


def render(meters: Sequence[Meter], verdict: Verdict) -> Rendered:
    """Renders ``verdict``, whose outcomes are parallel to ``meters``."""
    shadow: list[Standing] = []
    if len(meters) == 1 and not meters[0].shadow:  # as most are: a loop over one costs a check a third of all this
        enforced = [(meters[0], verdict.outcomes[0])]
    else:
        enforced = []
        for standing in zip(meters, verdict.outcomes, strict=True):
            (shadow if standing[0].shadow else enforced).append(standing)
    omitted = 0
    if len(enforced) > 1:
        enforced.sort(key=restriction)
        omitted = _cut(enforced)
    if len(shadow) > MAX_LISTED:
        shadow.sort(key=_shadow_restriction)
        omitted += _cut(shadow)
    if verdict.admitted:
        return Rendered("ok", "", verdict.now_us, enforced, shadow, None, omitted)
    meter, outcome = enforced[0]
    limit, wait_us = meter.limit, outcome.retry_after_us
    return Rendered(
        limit_code(limit), limit_message(limit, wait_us), verdict.now_us, enforced, shadow, wait_us, omitted
    )


def _shadow_restriction(standing: Standing) -> tuple[bool, float]:
    meter, outcome = standing
    return outcome.admitted, max(outcome.remaining, 0) / meter.ceiling


def _cut(listed: list[Standing]) -> int:
    """Keeps the first of what is listed; returns how many are left out."""
    omitted = max(0, len(listed) - MAX_LISTED)
    if omitted:
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


def json_states(standings: Sequence[Standing]) -> str:
    """``limit_state`` of each as members of a JSON array: what never changes of a limit is JSON already."""
    if len(standings) == 1:
        return _json_state(*standings[0])
    return ",".join([_json_state(meter, outcome) for meter, outcome in standings])


def _json_state(meter: Meter, outcome: Outcome) -> str:
    before, between, behind = meter.json_state
    remaining = outcome.remaining if outcome.remaining > 0 else 0
    violated = "false}" if outcome.admitted else "true}"
    return f"{before}{remaining}{between}{-(-outcome.reset_us // 1000) / 1000}{behind}{violated}"


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
